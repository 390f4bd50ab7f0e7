"""The addresses, checksums and folder layouts of published data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """Where a data set is published: one archive, several plain files, or a page that asks for an account."""

    page: str
    """The publisher's page."""
    url: str | None = None
    """The archive, or the address that ``files`` follow; ``None`` where the page asks for an account."""
    md5: str | None = None
    """The publisher's checksum of the archive, where there is one."""
    files: tuple[str, ...] = ()
    """Files below ``url``, where it is no archive."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """The publisher's MD5 of files in the archive, by their names."""
    layout: str = ""
    """The files that a folder must hold, for data sets that nobody can load for the user."""


KUAIRAND = "https://zenodo.org/records/10439422"
MOVIELENS = "https://grouplens.org/datasets/movielens"
YAMBDA = "https://huggingface.co/datasets/yandex/yambda"
PARTS = ("train.csv", "valid.csv", "test.csv")


def _kuairand(version: str, md5: str) -> Published:
    return Published(KUAIRAND, f"{KUAIRAND}/files/KuaiRand-{version}.tar.gz", md5)


def _movielens(page: str, archive: str, md5: str) -> Published:
    return Published(f"{MOVIELENS}/{page}/", f"https://files.grouplens.org/datasets/movielens/{archive}.zip", md5)


def _yambda(size: str) -> Published:
    files = (f"flat/{size}/multi_event.parquet", "artist_item_mapping.parquet", "album_item_mapping.parquet")
    return Published(YAMBDA, f"{YAMBDA}/resolve/main", files=files)


def _bars(name: str, *md5s: str) -> Published:
    page = f"https://huggingface.co/datasets/reczoo/{name}"
    names = PARTS if len(md5s) == len(PARTS) else (PARTS[0], PARTS[-1])
    return Published(page, f"{page}/resolve/main/{name}.zip", contents=dict(zip(names, md5s, strict=True)))


PUBLISHED = {
    "kuairand-pure": _kuairand("Pure", "0820331067a3784d9691136f772b35a7"),
    "kuairand-1k": _kuairand("1K", "6b0b9c8222d67fcd4c676218edca3f1f"),
    "kuairand-27k": _kuairand("27K", "3e3c799a24e2d23a4d2c757fbf9adf59"),
    "movielens-100k": _movielens("100k", "ml-100k", "0e33842e24a9c977be4e0107933c0723"),
    "movielens-1m": _movielens("1m", "ml-1m", "c4d9eecfca2ab87c1945afe126590906"),
    "yambda-50m": _yambda("50m"),
    "yambda-500m": _yambda("500m"),
    "yambda-5b": _yambda("5b"),
    "open-bandit": Published(
        "https://research.zozo.com/data.html", "https://research.zozo.com/data_release/open_bandit_dataset.zip"
    ),
    "criteo": Published("https://www.kaggle.com/c/criteo-display-ad-challenge/data", layout="train.txt"),
    "avazu": Published("https://www.kaggle.com/c/avazu-ctr-prediction/data", layout="train.csv or train.gz"),
    "taobao-ads": Published(
        "https://tianchi.aliyun.com/dataset/56",
        layout="raw_sample.csv, ad_feature.csv, user_profile.csv and, if wanted, behavior_log.csv",
    ),
    "criteo-x1": _bars(
        "Criteo_x1",
        "30b89c1c7213013b92df52ec44f52dc5",
        "f73c71fb3c4f66b6ebdfa032646bea72",
        "2c48b26e84c04a69b948082edae46f8c",
    ),
    "criteo-x4": _bars(
        "Criteo_x4",
        "4a53bb7cbc0e4ee25f9d6a73ed824b1a",
        "fba5428b22895016e790e2dec623cb56",
        "cfc37da0d75c4d2d8778e76997df2976",
    ),
    "avazu-x1": _bars(
        "Avazu_x1",
        "f1114a07aea9e996842c71648e0f6395",
        "d9568f246357d156c4b8030fadb8b623",
        "9e2fe9c48705c9315ae7a0953eb57acf",
    ),
    "avazu-x4": _bars(
        "Avazu_x4",
        "de3a27264cdabf66adf09df82328ccaa",
        "33232931d84d6452d3f956e936cab2c9",
        "3ebb774a9ca74d05919b84a3d402986d",
    ),
    "movielenslatest-x1": _bars(
        "MovielensLatest_x1",
        "efc8bceeaa0e895d566470fc99f3f271",
        "e1930223a5026e910ed5a48687de8af1",
        "54e8c6baff2e059fe067fb9b69e692d0",
    ),
    "kuaivideo-x1": _bars("KuaiVideo_x1", "16f13734411532cc313caf2180bfcd56", "ba26c01caaf6c65c272af11aa451fc7a"),
    "taobaoad-x1": _bars("TaobaoAd_x1", "eaabfc8629f23519b04593e26c7522fc", "f5ae6197e52385496d46e2867c1c8da1"),
}
"""Data sets by the names that ``unimixer data prepare`` knows, too."""
