"""Downloads from the Hugging Face hub at a pinned revision; one readable line for whatever goes wrong."""

from pathlib import Path

from nrc.errors import UserError

# Commits as listed on the hub's public pages, each holding the named set. The list was made without a
# network, so the first download of each is also its first check. data.revision overrides.
PINNED = {
    ("jat", "reacher"): "e8c83106d878351296458f87295bc044f17b6e0e",
    ("jat", "swimmer"): "bb2a30f396f5aff8c251c017eba2db57815f36b4",
    ("jat", "hopper"): "66267edd837647b615826ed9506af148243e29df",
    ("minari", "reacher"): "34f94bf5d2a15345f7aa85e224349d30cd8428f6",
    ("minari", "swimmer"): "34f94bf5d2a15345f7aa85e224349d30cd8428f6",
    ("minari", "hopper"): "34f94bf5d2a15345f7aa85e224349d30cd8428f6",
}


def pinned(source: str, name: str, revision: str | None) -> str:
    """The revision to download: the one asked for, else the pinned one; nothing is taken unpinned."""
    found = revision or PINNED.get((source, name))
    if found is None:
        raise UserError(
            f"no revision of {name} is pinned for data.source={source}; set data.revision to a commit of the "
            "hub, so that the download stays the same"
        )
    return found


def download(repo: str, pattern: str, revision: str, option: str, local_dir: Path | None = None) -> Path:
    """The files of a hub data set that match `pattern`, at `revision` (commit, tag or branch).

    Args:
        repo: e.g. "jat-project/jat-dataset".
        pattern: e.g. "mujoco-reacher/*".
        option: what the user may set instead of downloading, for the error line.
        local_dir: put the files there; None uses the hub's own cache, whose folder is named after the commit.

    Raises:
        UserError: no network, unknown repository or revision, or huggingface_hub not installed.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise UserError(
            f"downloading {repo} needs huggingface_hub: pip install 'minari[hf]', or {option}, "
            "or use data.source=embedded"
        ) from error
    try:
        # asked first because this fails at once without a network, where snapshot_download retries for 24 s
        commit = HfApi().dataset_info(repo, revision=revision, timeout=20).sha
        folder = snapshot_download(
            repo, repo_type="dataset", revision=commit, allow_patterns=pattern, local_dir=local_dir
        )
    # the hub's client raises its own and its http library's exceptions, some of which are not even OSErrors
    except Exception as error:
        if type(error).__name__ in ("RevisionNotFoundError", "RepositoryNotFoundError", "GatedRepoError"):
            reason = (
                f"the hub has no {repo} at revision {revision} (set data.revision to a commit, tag or branch)"
            )
        else:
            reason = (
                f"{repo} could not be downloaded ({type(error).__name__}): no network, or the hub is down"
            )
        raise UserError(f"{reason}; {option}, or use data.source=embedded, which needs no network") from error
    return Path(folder)


def cached(repo: str, pattern: str, revision: str) -> Path | None:
    """The folder of an earlier download in the hub's cache; no network is touched; None if there is none."""
    try:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=pattern, local_files_only=True
        )
    except Exception:  # as above; whatever it is, the download that follows will say it properly
        return None
    return Path(folder)


def commit_of(local_dir: Path, file: str) -> str | None:
    """The commit a file in a local folder came from, as the hub's client noted it; None if unknown."""
    note = local_dir / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    try:
        return note.read_text(encoding="utf-8").splitlines()[0].strip() or None
    except (OSError, IndexError):
        return None
