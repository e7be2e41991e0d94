"""lm-eval, unmodified, run by its own interpreter: `… URL MODEL TOKENIZER TASKS MAX_LENGTH`.

Prints one JSON object: by task, per document, what the client made of the answers.
"""

import json
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

url, model, tokenizer, tasks, max_length = sys.argv[1:]
found = simple_evaluate(
    model="local-completions",
    model_args={
        "base_url": f"{url}/v1/completions",
        "model": model,
        "tokenizer": tokenizer,
        "tokenizer_backend": "huggingface",
        "max_length": int(max_length),
        "custom_prefix_token_id": 0,
        "num_concurrent": 1,
        "batch_size": 2,
        "max_retries": 1,
    },
    tasks=["own_choice", "own_text"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    log_samples=True,
    bootstrap_iters=0,
)
said = {
    task: [sample["filtered_resps"] for sample in sorted(samples, key=lambda s: s["doc_id"])]
    for task, samples in found["samples"].items()
}
print("\n" + json.dumps({"samples": said, "results": found["results"]}, default=str))
