"""Fetch every page, summarise all of them: map, retries, a checkpoint and progress.

skep run fan-out.py --input 'pages=["a", "b"]'
python fan-out.py
"""

from skep import context, task, workflow

CHAPTERS = 5


@task(retries={"limit": 3, "delay": "50ms", "only": "ConnectionError"}, timeout="30s", max_parallel=4)
def fetch(page: str) -> str:
    """Reads a page chapter by chapter. The line breaks once; the next attempt goes on where it broke."""
    chapters = context.checkpoint.load(default=[])
    context.log("attempt", context.attempt, "of", page, "has", len(chapters), "chapters")
    for number in range(len(chapters), CHAPTERS):
        if number == 3 and context.attempt == 1:
            raise ConnectionError("the line broke")
        chapters.append(f"chapter {number + 1} of {page}")
        context.checkpoint.save(chapters)
        context.progress(number + 1, CHAPTERS, page)
    return "\n".join(chapters)


@task
def summarise(texts: list[str]) -> dict[str, int]:
    return {"pages": len(texts), "chapters": sum(text.count("\n") + 1 for text in texts)}


@workflow
def fan_out(pages: list[str] = ["intro", "guide", "reference"]):  # noqa: B006  a default that is only read
    """Fetches pages side by side and summarises them."""
    return summarise(fetch.map(pages))


if __name__ == "__main__":
    print(fan_out.run())
