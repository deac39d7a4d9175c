"use strict";
// What a model says is shown as text: it is set as textContent, and never as markup.
const of = (id) => document.getElementById(id);
const talks = [[], []]; // the messages of each side; of the second while two models answer
let turns = []; // what the user said: {box, at: where it stands in each talk}
let running = null;
let answers = []; // the last ones, one a side: {id, text, box}
let row = null; // that holds them
let editing = null; // the turn that is written anew

function headers() {
  const found = { "Content-Type": "application/json" };
  const key = of("key");
  if (key && key.value) found.Authorization = "Bearer " + key.value;
  return found;
}

function show(text) { of("said").textContent = text; }

function part(tag, text, parent, kind) {
  const found = document.createElement(tag);
  found.textContent = text;
  if (kind) found.className = kind;
  parent.append(found);
  return found;
}

function models() {
  const beside = of("beside");
  return beside && beside.value ? [of("model").value, beside.value] : [of("model").value];
}

function turn(role, name, text, parent) {
  const box = part("div", "", parent, "turn " + role);
  part("strong", name, box);
  const body = part("div", text, box, "text");
  return { box, body };
}

function button(text, label, parent, act) {
  const found = part("button", text, parent);
  found.type = "button";
  found.setAttribute("aria-label", label);
  found.addEventListener("click", act);
  return found;
}

async function why(response) {
  try { return (await response.json()).error.message; } catch { return "status " + response.status; }
}

function busy(is) {
  of("send").disabled = is;
  of("stop").disabled = !is;
  of("again").disabled = is || !answers.some((each) => each.text);
  if (of("beside")) of("beside").disabled = is;
}

async function ask() {
  const names = models();
  row = part("div", "", of("talk"), names.length > 1 ? "pair" : "");
  answers = names.map((model) => {
    const { box, body } = turn("assistant", model, "", row);
    return { id: null, text: "", model, box, body };
  });
  const mine = answers;
  running = new AbortController();
  busy(true);
  show("Answering…");
  const failed = await Promise.all(answers.map((each, side) => one(each, talks[side], running.signal)));
  if (answers !== mine) return; // a new chat has begun meanwhile
  running = null;
  answers.forEach((each, side) => {
    if (each.text) talks[side].push({ role: "assistant", content: each.text });
    else each.box.remove();
    if (!failed[side]) rate(each);
  });
  of("talk").scrollTop = of("talk").scrollHeight; // the buttons have come below it
  show([...new Set(failed.filter(Boolean))].join(" "));
  busy(false);
  figures();
}

// One answer, piece by piece; gives why it broke off, or null.
async function one(answer, messages, signal) {
  const body = { model: answer.model, messages, stream: true };
  const temperature = of("temperature").value;
  if (temperature !== "") body.temperature = Number(temperature);
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal,
    });
    if (!response.ok) throw new Error(await why(response));
    await read(response.body, (event) => {
      if (event.error) throw new Error(event.error.message);
      answer.id = event.id;
      const delta = event.choices.length ? event.choices[0].delta.content : null;
      if (delta) { answer.text += delta; answer.body.textContent = answer.text; }
      of("talk").scrollTop = of("talk").scrollHeight;
    });
  } catch (error) {
    return error.name === "AbortError" ? "Stopped." : error.message;
  }
  return null;
}

async function read(stream, seen) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (kept + value).split("\n");
    kept = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") seen(JSON.parse(line.slice(6)));
    }
  }
}

function rate(of_answer) {
  const bar = part("div", "", of_answer.box, "row");
  const sides = { up: "Good", down: "Bad" };
  const buttons = Object.entries(sides).map(([rating, sign]) =>
    button(sign, rating === "up" ? "Good answer" : "Bad answer", bar, async () => {
      if (!(await tell({ id: of_answer.id, rating }))) return;
      buttons.forEach((each, i) => each.setAttribute("aria-pressed", Object.keys(sides)[i] === rating));
    }));
  button("Better answer", "Write a better answer", bar, () => {
    if (of_answer.box.querySelector("textarea")) return;
    const form = part("form", "", of_answer.box);
    const text = part("textarea", "", form);
    text.setAttribute("aria-label", "Better answer");
    text.rows = 3;
    text.required = true;
    text.value = of_answer.text;
    part("button", "Save", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await tell({ id: of_answer.id, better: text.value })) form.remove();
    });
    text.focus();
  });
}

async function tell(body) {
  try {
    const response = await fetch("v1/feedback", {
      method: "POST", headers: headers(), body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await why(response));
  } catch (error) {
    show(error.message);
    return false;
  }
  show("Thank you, it is kept.");
  return true;
}

async function figures() {
  let found;
  try {
    const response = await fetch("figures", { headers: headers() });
    if (!response.ok) return;
    found = await response.json();
  } catch { return; }
  of("now").textContent = `${found.active} in work, ${found.waiting} of them waiting.`;
  const rows = {
    "Whole answer, seconds": found.seconds,
    "First token, seconds": found.first_token,
    "Tokens a second": found.tokens_per_second,
  };
  if (found.reward.count) rows["Reward of a share"] = found.reward;
  of("figures").replaceChildren();
  for (const [name, values] of Object.entries(rows)) {
    const row = part("tr", "", of("figures"));
    part("th", `${name} (${values.count})`, row).scope = "row";
    for (const q of ["p50", "p95", "p99"]) {
      part("td", values.count ? Number(values[q].toPrecision(3)) : "–", row, "num");
    }
  }
}

function edit(said, text) {
  if (running) return;
  editing = said;
  of("text").value = text;
  of("text").focus();
  show("Sending replaces this message and all that follows it. Escape keeps them.");
}

// Take a message back, and all that follows it.
function cut(said) {
  talks.forEach((each, side) => { each.length = Math.min(each.length, said.at[side]); });
  turns = turns.slice(0, turns.indexOf(said));
  while (said.box.nextSibling) said.box.nextSibling.remove();
  said.box.remove();
  answers = [];
  editing = null;
}

of("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = of("text").value.trim();
  if (!text || running) return;
  if (editing) cut(editing);
  const said = { at: talks.map((each) => each.length) };
  models().forEach((_, side) => talks[side].push({ role: "user", content: text }));
  said.box = turn("user", "You", text, of("talk")).box;
  button("Edit", "Edit this message", part("div", "", said.box, "row"), () => edit(said, text));
  turns.push(said);
  of("text").value = "";
  ask();
});
of("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    of("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort();
  else if (editing) {
    editing = null;
    of("text").value = "";
    show("");
  }
});
of("stop").addEventListener("click", () => running && running.abort());
of("again").addEventListener("click", () => {
  if (running || !answers.length) return;
  answers.forEach((each, side) => { if (each.text) talks[side].pop(); });
  row.remove();
  ask();
});
of("new").addEventListener("click", () => {
  if (running) running.abort();
  running = null;
  talks.forEach((each) => { each.length = 0; });
  turns = [];
  answers = [];
  editing = null;
  of("talk").replaceChildren();
  busy(false);
  of("text").focus();
});
if (of("beside")) {
  of("beside").addEventListener("change", () => { // the second model goes on from where the first is
    talks[1] = of("beside").value ? [...talks[0]] : [];
    turns.forEach((each) => { each.at[1] = each.at[0]; });
    answers = [];
    busy(false);
  });
}
of("who").addEventListener("submit", (event) => event.preventDefault());
figures();
setInterval(figures, 5000);
