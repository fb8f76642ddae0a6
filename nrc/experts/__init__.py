"""The project's own MuJoCo experts: policies trained by the published recipes, their roll-out and their Minari sets.

Training needs libraries that the project does not (`make experts`); what it leaves is a file of plain arrays, which
`nrc.experts.policy` reads. `nrc.experts.choose` takes the policy and the episodes by the published statistics.
"""
