# SPDX-License-Identifier: MIT
"""-m org/name: found in a Hugging Face cache, without the network."""

import json
import shutil
import unittest
from pathlib import Path

from cli import MODEL, SCRATCH, CliTest, say

HASH = "0123456789abcdef0123456789abcdef01234567"
NAME = "some-org/Some.Model_1-B"


def make_cache(hub: Path) -> Path:
    """As `hf download` leaves it: blobs, and a snapshot of links to them. Gives the snapshot."""
    place = hub / "models--some-org--Some.Model_1-B"
    for folder in ["blobs", "refs", f"snapshots/{HASH}"]:
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text(HASH)
    snapshot = place / "snapshots" / HASH
    for i, file in enumerate(sorted(MODEL.iterdir())):
        shutil.copy(file, place / "blobs" / f"{i:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:064x}")
    return snapshot


class HfCache(CliTest):
    def setUp(self):
        self.home = SCRATCH / self.id()
        self.hub = self.home / ".cache" / "huggingface" / "hub"
        self.snapshot = make_cache(self.hub)
        self.nothing = {"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "",
                        "HOME": str(self.home)}

    def answer(self, **env):
        got = json.loads(self.output("-n", "2", *say("a"), "-p", "x", "--format", "json",
                                     model=NAME, env={**self.nothing, **env}))
        self.assertEqual(got["model"], NAME)
        return got["choices"][0]["message"]["content"]

    def missing(self, **env):
        return self.failure("-p", "x", model=NAME, code=3, env={**self.nothing, **env})

    def test_the_places_of_the_cache(self):
        elsewhere = {"HOME": "/nonexistent"}
        for env in [{}, {**elsewhere, "HF_HUB_CACHE": str(self.hub)},
                    {**elsewhere, "HF_HOME": str(self.hub.parent)}, {"HF_HOME": "~/.cache/huggingface"},
                    {**elsewhere, "XDG_CACHE_HOME": str(self.home / ".cache")}]:
            self.assertEqual(self.answer(**env), "aa")

    def test_the_first_place_that_is_named_counts(self):
        self.assertIn("/nowhere", self.missing(HF_HUB_CACHE="/nowhere", HF_HOME=str(self.hub.parent)))

    def test_from_the_environment(self):
        env = {**self.nothing, "DEEPSEEK_RUN_MODEL": NAME}
        self.assertEqual(self.output("-n", "2", *say("a"), "-p", "x", model=None, env=env), "aa\n")

    def test_what_is_missing_and_how_to_get_it(self):
        hint = f"\n  try: hf download {NAME}"
        (self.snapshot / "config.json").unlink()
        self.assertEqual(self.missing(), f'model "{NAME}" has no config.json in {self.snapshot}: '
                         "incomplete download?" + hint)
        (self.snapshot.parents[1] / "refs" / "main").write_text("../../../etc")
        self.assertEqual(self.missing(), f'model "{NAME}" has no readable refs/main in '
                         f"{self.snapshot.parents[1]}" + hint)
        shutil.rmtree(self.hub)
        self.assertEqual(self.missing(), f'model "{NAME}" is neither a directory nor in the Hugging '
                         f"Face cache {self.hub}" + hint)

    def test_other_words_are_directories(self):
        for word in ["a/b/c", "../b", "a/..", "a/.b", "/a", "a/", "a--b/c", "a b/c", "-a/b"]:
            error = self.failure("-p", "x", f"--model={word}", model=None, code=3, env=self.nothing)
            self.assertRegex(error, "does not exist$|is not a directory$|has no config.json")

    def test_a_directory_comes_first(self):
        place = self.home / NAME
        shutil.copytree(MODEL, place)
        got = json.loads(self.output("-n", "1", *say("a"), "-p", "x", "--format", "json", model=NAME,
                                     env=self.nothing | {"HOME": "/nonexistent"}, cwd=self.home))
        self.assertEqual(got["model"], "Some.Model_1-B")


if __name__ == "__main__":
    unittest.main()
