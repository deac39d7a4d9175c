"use strict";
// What a model says is shown as text: it is set as textContent, and never as markup.
const of = (id) => document.getElementById(id);
const messages = [];
let running = null;
let answer = null; // the last one: {id, text, box}

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

function turn(role, text) {
  const box = part("div", "", of("talk"), "turn " + role);
  part("strong", role === "user" ? "You" : of("model").value, box);
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
  of("again").disabled = is || !answer;
}

async function ask() {
  const body = { model: of("model").value, messages, stream: true };
  const temperature = of("temperature").value;
  if (temperature !== "") body.temperature = Number(temperature);
  const { box, body: shown } = turn("assistant", "");
  answer = { id: null, text: "", box };
  running = new AbortController();
  busy(true);
  show("Answering…");
  let failed = null;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw new Error(await why(response));
    await read(response.body, (event) => {
      if (event.error) throw new Error(event.error.message);
      answer.id = event.id;
      const delta = event.choices.length ? event.choices[0].delta.content : null;
      if (delta) { answer.text += delta; shown.textContent = answer.text; }
      of("talk").scrollTop = of("talk").scrollHeight;
    });
  } catch (error) {
    failed = error.name === "AbortError" ? "Stopped." : error.message;
  }
  running = null;
  if (answer.text) messages.push({ role: "assistant", content: answer.text });
  else box.remove();
  if (!failed) rate(answer);
  show(failed || "");
  if (!answer.text) answer = null;
  busy(false);
  figures();
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

of("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = of("text").value.trim();
  if (!text || running) return;
  messages.push({ role: "user", content: text });
  turn("user", text);
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
  if (event.key === "Escape" && running) running.abort();
});
of("stop").addEventListener("click", () => running && running.abort());
of("again").addEventListener("click", () => {
  if (running || !answer) return;
  messages.pop();
  answer.box.remove();
  ask();
});
of("new").addEventListener("click", () => {
  if (running) running.abort();
  messages.length = 0;
  answer = null;
  of("talk").replaceChildren();
  busy(false);
  of("text").focus();
});
of("who").addEventListener("submit", (event) => event.preventDefault());
figures();
setInterval(figures, 5000);
