"""One backbone, several tasks: fill a bank the long way, then prune new tasks with what it knows.

python bank_of_tasks.py [FOLDER] [--quick]
"""

import sys
from pathlib import Path

import mvp_deploy as mvp

EARLIER = ["digits#0,1,2", "digits#3,4"]  # yours are folders: data/birds, data/flowers
NEW = ["digits#5,6", "digits#7,8,9"]


def main(folder: Path, quick: bool) -> None:
    # Random weights, since this example needs no network. Yours: "mobilenetv2_100", pretrained=True, rotate=EARLIER[0].
    bank = mvp.Bank.create(folder / "bank", "test_resnet", image_size=32)
    for task in EARLIER:  # once per task: train, then cut and fine-tune in rounds
        bank.add(task, macs=0.6, steps=4 if quick else 200, rounds=1 if quick else 5, round_steps=2 if quick else 100)
    print("the bank has", *bank.tasks)

    for task in NEW:  # minutes on a real backbone: the bank's tasks vote, and a few steps finish the model
        result = bank.prune(
            task, macs=0.6, steps=4 if quick else 100, out=folder / "runs" / task.replace("#", "-").replace(",", "")
        )
        print(f"{task}: {result.report}")

    bundle = mvp.export(result, folder / "bundle")  # the RUN knows its task
    print(bundle)
    print(bundle.evaluate(NEW[-1]))


if __name__ == "__main__":
    places = [argument for argument in sys.argv[1:] if argument != "--quick"]
    main(Path(places[0] if places else "bank-of-tasks"), quick="--quick" in sys.argv)
