"""Draws docs/reuse.svg: which blocks of the demo's prompts are computed and which are found in the cache.

python docs/draw_reuse.py
"""

from pathlib import Path

BLOCK = 64  # tokens
PROMPTS = {  # as `make demo` prints them: question, prompt tokens, reused tokens
    "What is wisdom?": (5143, 0),
    "What did Confucius claim proudly?": (5145, 5120),
    "Which philosophers taught administrators?": (5149, 5120),
    "Define a wise person.": (5148, 5120),
}
CELL, GAP, TEXT, ROW, TOP = 6, 1, 252, 34, 46
COMPUTED, REUSED, INK = "#d9822b", "#3f8f6b", "#57606a"


def draw() -> str:
    """The picture as SVG text. It reads on light and on dark pages."""
    columns = max(-(-total // BLOCK) for total, _ in PROMPTS.values())
    width, height = TEXT + columns * (CELL + GAP) + 12, TOP + len(PROMPTS) * ROW + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        "<title>Four questions about one essay: the first computes 81 blocks, each later one computes a single block</title>",
        f'<text x="{TEXT}" y="20">the essay: 80 blocks of {BLOCK} tokens</text>',
        f'<text x="{width - 12}" y="20" text-anchor="end">question</text>',
    ]
    for row, (question, (total, reused)) in enumerate(PROMPTS.items()):
        y = TOP + row * ROW
        parts.append(f'<text x="{TEXT - 12}" y="{y + 11}" text-anchor="end">{question}</text>')
        for block in range(-(-total // BLOCK)):
            colour = REUSED if block < reused // BLOCK else COMPUTED
            parts.append(f'<rect x="{TEXT + block * (CELL + GAP)}" y="{y}" width="{CELL}" height="14" rx="1" fill="{colour}"/>')
    y = TOP + len(PROMPTS) * ROW + 8
    for x, colour, text in ((TEXT, COMPUTED, "computed"), (TEXT + 110, REUSED, "found in the KV cache")):
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 10}">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("reuse.svg").write_text(draw())
