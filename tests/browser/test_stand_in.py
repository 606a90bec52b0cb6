"""The page that stands in for Stash's is at least as strict as React: what it would only warn about fails here."""

from __future__ import annotations

import json

import pytest

from demo.chromium import PageError
from tests.browser.conftest import Site

WRONG = {
    "a list without keys": ("h('ul', null, [h('li', null, 'a')])", "has no key"),
    "a key twice": ("h('ul', null, [h('li', {key: 1}), h('li', {key: 1})])", "two children have the key"),
    "an object as text": ("h('p', null, {a: 1})", "an object is no child"),
    "an attribute of HTML": ("h('p', {class: 'x'})", "className"),
    "markup": ("h('p', {dangerouslySetInnerHTML: {__html: '<b>'}})", "not wanted"),
    "a field nobody listens to": ("h('input', {value: 'x'})", "no onChange"),
    "nothing returned": ("h(() => undefined)", "returned nothing"),
    "a hook outside": ("h('p', null, PluginApi.React.useState(1)[0])", "outside of a component"),
    "a type that is missing": ("h(undefined)", "the type is undefined"),
    "drawing for ever": (
        "h(() => { const [n, set] = PluginApi.React.useState(0);"
        " PluginApi.React.useEffect(() => set(n + 1)); return null; })",
        "drawn 50 times",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses(site: Site, name: str) -> None:
    script, message = WRONG[name]
    page = site.go("/settings")
    page.wait_for("[data-haven-tools]")
    with pytest.raises(PageError, match=message):
        page.run(
            "(() => { const h = PluginApi.React.createElement;"
            f" PluginApi.ReactDOM.render({script}, document.createElement('div')); }})()"
        )


def test_keyed_children_keep_their_elements_and_order(site: Site) -> None:
    page = site.go("/settings")
    page.wait_for("[data-haven-tools]")
    orders = [[1, 2, 3], [3, 1], [2, 3, 1, 4], []]
    seen = page.run(
        """(async () => {
          const {createElement: h, useState} = PluginApi.React;
          const into = document.createElement("div");
          let set;
          const Rows = () => {
            const [order, change] = useState([]);
            set = change;
            return h("ul", null, order.map((n) => h("li", {key: n}, n)));
          };
          PluginApi.ReactDOM.render(h(Rows), into);
          let marks = new Map();
          const result = [];
          for (const order of """
        + json.dumps(orders)
        + """) {
            set(order);
            await Promise.resolve();
            const rows = Array.from(into.querySelectorAll("li"));
            result.push(rows.map((row) => Number(row.textContent)));
            if (rows.some((row) => marks.has(row.textContent) && marks.get(row.textContent) !== row)) {
              throw new Error("made anew");
            }
            marks = new Map(rows.map((row) => [row.textContent, row]));
          }
          return result;
        })()"""
    )
    assert seen == orders
