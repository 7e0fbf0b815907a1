// --- ranked lists ------------------------------------------------------------------------------

if (document.getElementById("ranked-set")) {
  const [setChoice, networkChoice, queryChoice] = ["set", "network", "query"].map((n) => document.getElementById(`ranked-${n}`));
  const strip = document.getElementById("ranked-queries");
  const percent = (value) => (value === null ? "–" : `${value.toFixed(1)} %`);

  const option = (value, text) => make("option", { value }, text);
  const camera = (number) => (number ? `, camera ${number}` : "");

  function chooseSet() {
    const set = data("ranked").sets[Number(setChoice.value)];
    document.getElementById("ranked-about").textContent = set.about;
    const names = set.networks.map((network) => network.name);
    networkChoice.replaceChildren(
      option("", "all"),
      ...set.networks.map((n, i) => option(i, names.indexOf(n.name) === names.lastIndexOf(n.name) ? n.name : `${n.name}, ${n.group}`)),
    );
    queryChoice.replaceChildren(...set.queries.map(([, id, number], i) => option(i, `${i + 1}: identity ${id}${camera(number)}`)));
    strip.replaceChildren(
      ...set.queries.map(([place, id, number], i) =>
        make(
          "button",
          { type: "button", "data-query": i, "aria-label": `Query ${i + 1}, identity ${id}${camera(number)}`, onclick: () => chooseQuery(i) },
          make("img", { src: data("ranked").thumbnails[place], alt: "" }),
        ),
      ),
    );
    chooseQuery(0);
  }

  function chooseQuery(place) {
    queryChoice.value = String(place);
    all("button", strip).forEach((button, i) => button.setAttribute("aria-pressed", String(i === place)));
    showLists();
  }

  function showLists() {
    const { thumbnails, sets } = data("ranked");
    const set = sets[Number(setChoice.value)];
    const place = Number(queryChoice.value);
    const [picture, identity, number, file] = set.queries[place];
    const query = make(
      "li",
      { class: "query" },
      make("img", { src: thumbnails[picture], alt: `Query, identity ${identity}${camera(number)}`, title: file }),
      make("span", {}, "query"),
    );
    const networks = networkChoice.value === "" ? set.networks : [set.networks[Number(networkChoice.value)]];
    const rows = networks.map((network) => {
      const list = network.lists[place];
      const items = list.items.map(([thumb, distance, right, id, cam, name], i) =>
        make(
          "li",
          { class: right ? "right" : "wrong" },
          make("img", { src: thumbnails[thumb], title: name, alt: `Rank ${i + 1}, ${right ? "right" : "wrong"}, distance ${distance.toFixed(2)}, identity ${id}${camera(cam)}` }),
          make("span", {}, make("b", { "aria-hidden": "true" }, right ? "✓" : "✗"), ` ${distance.toFixed(2)}`),
        ),
      );
      const about = `AP ${percent(list.ap)}, first right image at rank ${list.first}, ${list.positives} in the gallery; mAP of all queries ${percent(network.mAP)}`;
      return make(
        "article",
        {},
        make("h3", {}, network.name, " ", make("small", {}, `${network.group} · ${about} · `), network.run ? make("button", { type: "button", class: "trace", "data-runs": network.run }, network.run) : null),
        make("ol", { class: "list", tabindex: 0, "aria-label": `Ranked list of ${network.name}` }, query.cloneNode(true), ...items),
      );
    });
    document.getElementById("ranked-lists").replaceChildren(...rows);
  }

  setChoice.addEventListener("change", chooseSet);
  networkChoice.addEventListener("change", showLists);
  queryChoice.addEventListener("change", () => chooseQuery(Number(queryChoice.value)));
  const step = (by) => chooseQuery((Number(queryChoice.value) + by + queryChoice.length) % queryChoice.length);
  document.getElementById("ranked-back").addEventListener("click", () => step(-1));
  document.getElementById("ranked-next").addEventListener("click", () => step(1));
  // Thumbnails are decoded only when the user scrolls near them.
  new IntersectionObserver(
    (entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      chooseSet();
    },
    { rootMargin: "800px" },
  ).observe(document.getElementById("ranked"));
}
