;; Heap of one runtime instance: a bump pointer and a free list per power of two.
;;
;; All state lies in linear memory at `base`, so that the host resets it by copying bytes and
;; allocates its own results without calling in:
;;   base + 4k   first free block of 8·2^k bytes, k in 0..22 (0: none); a free block's first
;;               word links to the next
;;   base + 92   the bump pointer
;; Eight bytes before each block hold its k; the last two of them are the runtime's.
(module
  (import "env" "memory" (memory 0))
  (global $base (export "base") (mut i32) (i32.const 0))

  (func (export "malloc") (param $size i32) (result i32)
    (local $order i32) (local $list i32) (local $block i32) (local $end i32)
    (if (i32.gt_u (local.get $size) (i32.const 0x2000000)) (then unreachable))
    (if (i32.eqz (local.get $size)) (then (local.set $size (i32.const 1))))
    (local.set $order
      (i32.sub (i32.const 29)
        (i32.clz (i32.or (i32.sub (local.get $size) (i32.const 1)) (i32.const 7)))))
    (local.set $list
      (i32.add (global.get $base) (i32.shl (local.get $order) (i32.const 2))))
    (local.set $block (i32.load (local.get $list)))
    (if (local.get $block) (then
      (i32.store (local.get $list) (i32.load (local.get $block)))
      (return (local.get $block))))
    (local.set $block (i32.add (i32.load offset=92 (global.get $base)) (i32.const 8)))
    (local.set $end
      (i32.add (local.get $block) (i32.shl (i32.const 8) (local.get $order))))
    (if (i32.gt_u (local.get $end) (i32.shl (memory.size) (i32.const 16))) (then
      (if (i32.eq (i32.const -1) (memory.grow
            (i32.sub
              (i32.shr_u (i32.add (local.get $end) (i32.const 0xffff)) (i32.const 16))
              (memory.size))))
        (then unreachable))))
    (i32.store (i32.sub (local.get $block) (i32.const 8)) (local.get $order))
    (i32.store offset=92 (global.get $base) (local.get $end))
    (local.get $block))

  (func (export "free") (param $block i32)
    (local $order i32) (local $list i32)
    (local.set $order (i32.load (i32.sub (local.get $block) (i32.const 8))))
    (if (i32.gt_u (local.get $order) (i32.const 22)) (then unreachable))
    (local.set $list
      (i32.add (global.get $base) (i32.shl (local.get $order) (i32.const 2))))
    (i32.store (local.get $block) (i32.load (local.get $list)))
    (i32.store (local.get $list) (local.get $block)))
)
