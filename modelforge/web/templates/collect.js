"use strict";
// Keys, the time a vote takes, and a vote that is sent again until the server has it.
const choices = { ArrowLeft: "left", ArrowRight: "right", t: "tie", x: "bad", s: "skip" };
const of = (id) => document.getElementById(id);
let begin, sending, next;

function wired() {
  begin = performance.now();
  sending = false;
  next = 1;
  const keys = of("keys");
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, event.submitter && event.submitter.value);
  }));
  if (!keys) return;
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
}

function send(form, chosen) {
  if (sending) return;
  sending = true;
  const data = new URLSearchParams(new FormData(form));
  if (chosen) data.set("choice", chosen);
  if (data.has("seconds")) data.set("seconds", ((performance.now() - begin) / 1000).toFixed(2));
  again(form.action, data);
}

// Saying the same twice changes nothing, so what got no answer is sent again.
async function again(action, data) {
  let answer, page;
  try {
    answer = await fetch(action, { method: "POST", body: data });
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    of("said").textContent = "The server does not answer. What you said is kept and sent again.";
    setTimeout(() => again(action, data), 1000);
    return;
  }
  if (answer.ok) {
    document.title = page.title;
    document.body.replaceWith(document.adoptNode(page.body));
    scrollTo(0, 0);
    const head = document.querySelector("h1");
    head.tabIndex = -1; // readers of the screen begin anew here
    head.focus();
    wired();
  } else {
    of("said").textContent = (page.getElementById("said") || page.body).textContent.trim();
    sending = false;
  }
}

function place(letter) {
  const select = of("judge").querySelector(`select[name=rank${letter.charCodeAt(0) - 97}]`);
  if (!select) return false;
  if (next > select.options.length - 1) {
    of("judge").querySelectorAll("select").forEach((each) => { each.value = ""; });
    next = 1;
  }
  select.value = String(next);
  next += 1;
  of("said").textContent = `${letter.toUpperCase()} is at place ${select.value}`;
  return true;
}

function write(id) {
  of("more").open = true;
  of(id).focus();
}

function pressed(event, judge) {
  const ranked = judge.dataset.ranked === "1";
  const key = event.key;
  if ("123".includes(key)) {
    judge.confidence.value = key;
  } else if (ranked && key === "Enter") {
    judge.querySelector("[value=ranked]").click();
  } else if (ranked && /^[a-z]$/.test(key) && place(key)) {
    // it is placed
  } else if (!ranked && (key === "b" || key === "c")) {
    write(key === "b" ? "better" : "comment");
  } else {
    const button = choices[key] && judge.querySelector(`button[value=${choices[key]}]`);
    if (!button) return;
    button.click();
  }
  event.preventDefault();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target;
  if (event.key === "Escape" && target.matches("textarea")) { target.blur(); return; }
  if (!of("keys") || !of("keys").checked || target.matches("textarea, select")) return;
  if (target.matches("input[type=radio]") && event.key.startsWith("Arrow")) return;
  if (target.matches("button, summary, a") && event.key === "Enter") return;
  if (event.key === "z") {
    event.preventDefault();
    of("undo").click();
  } else if (of("judge")) {
    pressed(event, of("judge"));
  }
});
wired();
