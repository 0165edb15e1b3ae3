"""What scikit-learn makes of the tables in inputs.json, for the tests of `src/probe/tabular`.

    python tabular.py FOLDER

FOLDER/inputs.json: by name a table (design, class), its training and test rows, the fold of each training row, the number
of folds, and the grids of the three learners. answers.json: for each the folds that scikit-learn itself would make by row,
and by learner the chosen entry of the grid, the log loss of every entry, and the AUC of each class against the rest.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def learners(grids):
    """By name: estimator, the parameter of its grid, the grid. l1_ratio=1 is the penalty "l1" of releases before 1.8."""
    logistic = LogisticRegression(solver="saga", l1_ratio=1.0, max_iter=3000, random_state=1)
    forest = RandomForestClassifier(n_estimators=grids["trees"], random_state=1)
    boosting = GradientBoostingClassifier(n_estimators=grids["rounds"], learning_rate=grids["step"], random_state=1)
    return {
        "logistic": (make_pipeline(StandardScaler(), logistic), "logisticregression__C", grids["logistic"]),
        "forest": (forest, "max_depth", grids["forest"]),
        "boosting": (boosting, "max_depth", grids["boosting"]),
    }


def searched(case, estimator, parameter, grid):
    design, of = np.asarray(case["design"]), np.asarray(case["class"])
    train, test = case["train"], case["test"]
    folds = PredefinedSplit(case["fold"])
    search = GridSearchCV(estimator, {parameter: grid}, scoring="neg_log_loss", cv=folds, n_jobs=2)
    search.fit(design[train], of[train])
    p = search.predict_proba(design[test])
    aucs = [roc_auc_score(of[test] == k, p[:, k]) for k in range(p.shape[1])]
    losses = (-search.cv_results_["mean_test_score"]).tolist()
    return {"chosen": search.best_params_[parameter], "losses": losses, "auc": aucs, "probabilities": p.tolist()}


def answer(case):
    answers = {name: searched(case, *learner) for name, learner in learners(case["grids"]).items()}
    of = np.asarray(case["class"])[case["train"]]
    by_row = np.empty(len(of), dtype=int)
    for fold, (_, held) in enumerate(StratifiedKFold(case["parts"]).split(of, of)):
        by_row[held] = fold
    return answers | {"by_row": by_row.tolist()}


def main(folder):
    # Large C on small tables: what is left open then moves no AUC.
    warnings.simplefilter("ignore", ConvergenceWarning)
    folder = Path(folder)
    inputs = json.loads((folder / "inputs.json").read_text())
    answers = {name: answer(case) for name, case in inputs.items()}
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
