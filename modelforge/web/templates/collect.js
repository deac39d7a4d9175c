"use strict";
// Keys, the time a vote takes, and a vote that is sent again until the server has it.
const judge = document.getElementById("judge");
const said = document.getElementById("said");
const keys = document.getElementById("keys");
const begin = performance.now();
const choices = { ArrowLeft: "left", ArrowRight: "right", t: "tie", x: "bad", s: "skip" };
let sending = false;
let next = 1;

function send(form, chosen) {
  if (sending) return;
  sending = true;
  const data = new URLSearchParams(new FormData(form));
  if (chosen) data.set("choice", chosen);
  if (data.has("seconds")) data.set("seconds", ((performance.now() - begin) / 1000).toFixed(2));
  document.querySelectorAll("button").forEach((each) => { each.disabled = true; });
  again(form, data);
}

async function again(form, data) {
  let answer;
  try {
    answer = await fetch(form.action, { method: "POST", body: data, redirect: "manual" });
  } catch {
    said.textContent = "The server does not answer. Your vote is kept on this page and sent again.";
    setTimeout(() => again(form, data), 1000);
    return;
  }
  if (answer.type === "opaqueredirect") {
    location.replace("/");
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const told = page.getElementById("said") || page.body;
  said.textContent = told.textContent.trim();
  sending = false;
  document.querySelectorAll("button").forEach((each) => { each.disabled = false; });
}

function place(letter) {
  const select = judge.querySelector(`select[name=rank${letter.charCodeAt(0) - 97}]`);
  if (!select) return false;
  if (next > select.options.length - 1) {
    judge.querySelectorAll("select").forEach((each) => { each.value = ""; });
    next = 1;
  }
  select.value = String(next);
  next += 1;
  said.textContent = `${letter.toUpperCase()} is at place ${select.value}`;
  return true;
}

function write(id) {
  document.getElementById("more").open = true;
  document.getElementById(id).focus();
}

function pressed(event) {
  const ranked = judge.dataset.ranked === "1";
  const key = event.key;
  if ("123".includes(key)) {
    judge.confidence.value = key;
  } else if (ranked && key === "Enter") {
    judge.querySelector("[value=ranked]").click();
  } else if (ranked && key.length === 1 && place(key)) {
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
  if (!keys || !keys.checked || target.matches("textarea, select")) return;
  if (target.matches("input[type=radio]") && event.key.startsWith("Arrow")) return;
  if (target.matches("button, summary, a") && event.key === "Enter") return;
  if (event.key === "z") {
    event.preventDefault();
    document.getElementById("undo").click();
  } else if (judge) {
    pressed(event);
  }
});
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => {
  event.preventDefault();
  send(form, event.submitter && event.submitter.value);
}));
if (keys) {
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
}
