"""A page that shows a run: how it was made, its numbers, its pictures."""

from pathlib import Path
from typing import Any

import jinja2
import lightning

from rdfia.runs import is_dry_run, spread, whole_file

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ results.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
code { background: #8882; padding: .1em .3em; }
table { border-collapse: collapse; }
td { border-bottom: 1px solid #8884; padding: .15rem 1rem .15rem 0; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 2rem 0; }
figure img { max-width: 100%; background: white; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } }
</style>
<h1>{{ results.name }}</h1>
<p><code>{{ results.command }}</code></p>
<p>Commit {{ results.commit }}, {{ results.device }}, {{ results.precision }},
{{ "%.1f" | format(results.wall_seconds) }} s.</p>
<ul>{% for note in results.notes %}<li>{{ note }}</li>{% endfor %}</ul>
<table>{% for name, metric in results.metrics.items() %}
<tr><td>{{ name }}</td><td>{{ spread(metric) }}</td></tr>{% endfor %}
</table>
{% for path in figures %}
<figure><figcaption>{{ path.stem | replace("_", " ") }}</figcaption>
<a href="figures/{{ path.name | urlencode }}"><img loading="lazy" alt="{{ path.stem }}"
src="figures/{{ path.name | urlencode }}"></a></figure>{% endfor %}
</html>
"""


def write_gallery(folder: Path, results: dict[str, Any], trainer: lightning.Trainer) -> None:
    """Write ``index.html``, which shows ``figures/``; nothing in a dry run.

    Args:
        folder: The run folder.
        results: The content of its results.json.
        trainer: Says whether it is a dry run.
    """
    if is_dry_run(trainer) or not trainer.is_global_zero:
        return
    figures = sorted(path for path in (folder / "figures").glob("*") if path.suffix in (".png", ".gif"))
    # Names of files and classes come from outside.
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    with whole_file(folder / "index.html") as part:
        part.write_text(page.render(results=results, figures=figures, spread=spread))
