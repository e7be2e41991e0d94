;; What one runtime instance is offered inside of it: a heap, and the hash of names.
;;
;; The heap is a bump pointer and a free list per power of two. All state lies in linear memory at `base`, so that the host resets it by copying bytes and
;; allocates its own results without calling in:
;;   base + 4k   first free block of 8·2^k bytes, k in 0..22 (0: none); a free block's first
;;               word links to the next
;;   base + 92   the bump pointer
;; Eight bytes before each block hold its k; the last two of them are the runtime's.
(module
  (import "env" "memory" (memory 0))
  (global $base (export "base") (mut i32) (i32.const 0))

  (func $malloc (export "malloc") (param $size i32) (result i32)
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

  ;; xxHash64, by its specification: pallets hash their names so often that calling out for it took
  ;; a quarter of a transfer's time.
  (func $round (param $lane i64) (param $word i64) (result i64)
    (i64.mul
      (i64.rotl
        (i64.add (local.get $lane)
          (i64.mul (local.get $word) (i64.const 0xC2B2AE3D27D4EB4F)))
        (i64.const 31))
      (i64.const 0x9E3779B185EBCA87)))

  ;; Take in $mixed: rotate by $by, multiply, add.
  (func $stir
    (param $hash i64) (param $mixed i64) (param $by i64) (param $times i64) (param $plus i64)
    (result i64)
    (i64.add
      (i64.mul
        (i64.rotl (i64.xor (local.get $hash) (local.get $mixed)) (local.get $by))
        (local.get $times))
      (local.get $plus)))

  (func $merge (param $hash i64) (param $lane i64) (result i64)
    (call $stir (local.get $hash) (call $round (i64.const 0) (local.get $lane)) (i64.const 0)
      (i64.const 0x9E3779B185EBCA87) (i64.const 0x85EBCA77C2B2AE63)))

  (func $xxh64 (param $span i64) (param $seed i64) (result i64)
    (local $at i32) (local $left i32) (local $hash i64)
    (local $a i64) (local $b i64) (local $c i64) (local $d i64)
    (local.set $at (i32.wrap_i64 (local.get $span)))
    (local.set $left (i32.wrap_i64 (i64.shr_u (local.get $span) (i64.const 32))))
    (local.set $hash (i64.add (local.get $seed) (i64.const 0x27D4EB2F165667C5)))
    (if (i32.ge_u (local.get $left) (i32.const 32)) (then
      (local.set $b (i64.add (local.get $seed) (i64.const 0xC2B2AE3D27D4EB4F)))
      (local.set $a (i64.add (local.get $b) (i64.const 0x9E3779B185EBCA87)))
      (local.set $c (local.get $seed))
      (local.set $d (i64.sub (local.get $seed) (i64.const 0x9E3779B185EBCA87)))
      (loop $stripe
        (local.set $a (call $round (local.get $a) (i64.load (local.get $at))))
        (local.set $b (call $round (local.get $b) (i64.load offset=8 (local.get $at))))
        (local.set $c (call $round (local.get $c) (i64.load offset=16 (local.get $at))))
        (local.set $d (call $round (local.get $d) (i64.load offset=24 (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 32)))
        (local.set $left (i32.sub (local.get $left) (i32.const 32)))
        (br_if $stripe (i32.ge_u (local.get $left) (i32.const 32))))
      (local.set $hash (i64.add
        (i64.add (i64.rotl (local.get $a) (i64.const 1)) (i64.rotl (local.get $b) (i64.const 7)))
        (i64.add (i64.rotl (local.get $c) (i64.const 12)) (i64.rotl (local.get $d) (i64.const 18)))))
      (local.set $hash (call $merge (local.get $hash) (local.get $a)))
      (local.set $hash (call $merge (local.get $hash) (local.get $b)))
      (local.set $hash (call $merge (local.get $hash) (local.get $c)))
      (local.set $hash (call $merge (local.get $hash) (local.get $d)))))
    (local.set $hash (i64.add (local.get $hash) (i64.shr_u (local.get $span) (i64.const 32))))
    (block $words_done (loop $word
      (br_if $words_done (i32.lt_u (local.get $left) (i32.const 8)))
      (local.set $hash (call $stir (local.get $hash)
        (call $round (i64.const 0) (i64.load (local.get $at))) (i64.const 27)
        (i64.const 0x9E3779B185EBCA87) (i64.const 0x85EBCA77C2B2AE63)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (local.set $left (i32.sub (local.get $left) (i32.const 8)))
      (br $word)))
    (if (i32.ge_u (local.get $left) (i32.const 4)) (then
      (local.set $hash (call $stir (local.get $hash)
        (i64.mul (i64.load32_u (local.get $at)) (i64.const 0x9E3779B185EBCA87)) (i64.const 23)
        (i64.const 0xC2B2AE3D27D4EB4F) (i64.const 0x165667B19E3779F9)))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (local.set $left (i32.sub (local.get $left) (i32.const 4)))))
    (block $bytes_done (loop $byte
      (br_if $bytes_done (i32.eqz (local.get $left)))
      (local.set $hash (call $stir (local.get $hash)
        (i64.mul (i64.load8_u (local.get $at)) (i64.const 0x27D4EB2F165667C5)) (i64.const 11)
        (i64.const 0x9E3779B185EBCA87) (i64.const 0)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $byte)))
    (local.set $hash (i64.mul (i64.const 0xC2B2AE3D27D4EB4F)
      (i64.xor (local.get $hash) (i64.shr_u (local.get $hash) (i64.const 33)))))
    (local.set $hash (i64.mul (i64.const 0x165667B19E3779F9)
      (i64.xor (local.get $hash) (i64.shr_u (local.get $hash) (i64.const 29)))))
    (i64.xor (local.get $hash) (i64.shr_u (local.get $hash) (i64.const 32))))

  ;; A block as the host gives it: the runtime's two bytes before it say that nothing was aligned.
  (func $block (param $size i32) (result i32)
    (local $block i32)
    (local.set $block (call $malloc (local.get $size)))
    (i32.store (i32.sub (local.get $block) (i32.const 4)) (i32.const 0))
    (local.get $block))

  (func (export "twox_64") (param $span i64) (result i32)
    (local $digest i32)
    (local.set $digest (call $block (i32.const 8)))
    (i64.store (local.get $digest) (call $xxh64 (local.get $span) (i64.const 0)))
    (local.get $digest))

  (func (export "twox_128") (param $span i64) (result i32)
    (local $digest i32)
    (local.set $digest (call $block (i32.const 16)))
    (i64.store (local.get $digest) (call $xxh64 (local.get $span) (i64.const 0)))
    (i64.store offset=8 (local.get $digest) (call $xxh64 (local.get $span) (i64.const 1)))
    (local.get $digest))
)
