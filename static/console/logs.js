// The live log of a deployment's page: follows it over a websocket (docs/live-logs.md).
// Lines are remembered by id, so pausing, a lost connection and a filter lose and repeat none.
"use strict";

(() => {
  const root = document.querySelector("[data-logs]");
  if (!root) return;

  const LINES_MAX = 2000; // in the page; older ones go
  const TAIL = 300; // lines to begin with under a new filter
  const DRAW_MS = 80;
  const TYPING_MS = 300;
  const SILENCE_MS = 40_000; // the server says something every 15 s
  const RETRY_MS = [500, 1000, 2000, 5000, 10_000];
  const BUSY_RETRY_MS = 30_000;
  const NEAR_END_PX = 24;
  const [REFUSED, LOGGED_OUT, GONE, IDLE, TOO_MANY] = [4400, 4401, 4404, 4408, 4429];

  const part = (name) => root.querySelector(`[data-logs-${name}]`);
  const list = part("lines");
  const status = part("status");
  const notice = part("notice");
  const jump = part("jump");
  const pause = part("pause");
  const filters = part("filters");
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${root.dataset.url}`;

  let socket = null;
  let lastId = Number(root.dataset.lastId); // null: begin with the newest lines
  let isPaused = false;
  let isOver = false;
  let failures = 0;
  let waiting = []; // messages not yet drawn
  let unseen = 0;
  let isAtEnd = true;
  let retryTimer, silenceTimer, drawTimer, typingTimer;

  function say(text, isLive = false) {
    if (status.textContent === text) return;
    status.textContent = text;
    status.classList.toggle("is-off", !isLive);
  }

  function warn(text) {
    notice.hidden = !text;
    notice.querySelector("p").textContent = text;
  }

  // --- The connection ------------------------------------------------------------------------

  function connect() {
    clearTimeout(retryTimer);
    if (socket || isPaused || isOver) return;
    const asked = new URLSearchParams(wanted());
    if (lastId === null) asked.set("tail", TAIL);
    else asked.set("after", lastId);
    const own = new WebSocket(`${url}?${asked}`);
    socket = own;
    own.onmessage = (event) => own === socket && hear(JSON.parse(event.data));
    own.onclose = (event) => own === socket && lose(event);
    listen();
  }

  function disconnect() {
    const own = socket;
    socket = null; // what it still says is not heard
    clearTimeout(silenceTimer);
    own?.close();
  }

  // A connection may be dead without being closed: then nothing comes any more.
  function listen() {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(() => {
      disconnect();
      retry("Connection lost. Trying again …");
    }, SILENCE_MS);
  }

  function hear(message) {
    listen();
    failures = 0;
    warn("");
    say("Live", true);
    if ("lastId" in message) lastId = Math.max(lastId ?? 0, message.lastId);
    else if ("id" in message) lastId = message.id;
    if (!("heartbeat" in message)) waiting.push(message);
    // Of a flood only what the page can show is kept.
    if (waiting.length > LINES_MAX) waiting = waiting.slice(-LINES_MAX);
    drawTimer ??= setTimeout(draw, DRAW_MS);
  }

  function lose(event) {
    socket = null;
    clearTimeout(silenceTimer);
    if (event.code === GONE) end("This deployment was deleted, or you have no access to it any more.");
    else if (event.code === LOGGED_OUT) end("You are logged out. Reload the page to log in again.");
    else if (event.code === REFUSED) end(event.reason);
    else if (event.code === TOO_MANY) retry(event.reason, BUSY_RETRY_MS);
    else if (event.code === IDLE) connect();
    else retry("Connection lost. Trying again …");
  }

  function retry(text, wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]) {
    failures += 1;
    say("Not connected");
    warn(text);
    retryTimer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
  }

  function end(text) {
    isOver = true;
    say("Ended");
    warn(text);
    pause.disabled = true;
  }

  // --- The lines -----------------------------------------------------------------------------

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.textContent = text;
    return made;
  }

  function row(message) {
    if ("dropped" in message) {
      const lines = message.dropped === 1 ? "1 line was" : `${message.dropped} lines were`;
      return element("li", "log-gap", `${lines} skipped: too many at once.`);
    }
    const item = element("li", "", "");
    const time = element("time", "", message.timestamp.slice(11, 19));
    time.dateTime = message.timestamp;
    time.title = `${message.timestamp.slice(0, 10)} ${time.textContent} UTC`;
    const text = element("span", "", message.message);
    item.append(time, text);
    if (message.requestId) {
      const button = element("button", "log-request", message.requestId.slice(0, 8));
      button.type = "button";
      button.dataset.request = message.requestId;
      button.title = `Only this request: ${message.requestId}`;
      item.append(button);
    }
    return item;
  }

  function draw() {
    drawTimer = undefined;
    const drawn = waiting;
    waiting = [];
    list.append(...drawn.map(row));
    while (list.children.length > LINES_MAX) list.firstElementChild.remove();
    if (!isAtEnd) unseen += drawn.length;
    show();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  function show() {
    const isEmpty = list.children.length === 0;
    const isFiltered = wanted().length > 0;
    list.hidden = isEmpty;
    part("empty").hidden = !isEmpty || isFiltered;
    part("unmatched").hidden = !isEmpty || !isFiltered;
    jump.hidden = isAtEnd || isEmpty;
    jump.textContent = unseen ? `${unseen} new below` : "To the end";
  }

  // --- What people do ------------------------------------------------------------------------

  function wanted() {
    return [...new FormData(filters)].map(([name, value]) => [name, value.trim()])
      .filter(([, value]) => value);
  }

  function filter() {
    clearTimeout(typingTimer);
    disconnect();
    waiting = [];
    list.replaceChildren();
    lastId = null;
    isAtEnd = true;
    unseen = 0;
    show();
    if (isPaused) togglePause();
    else connect();
  }

  function togglePause() {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    if (isPaused) {
      disconnect();
      clearTimeout(retryTimer);
      warn("");
      say("Paused");
    } else {
      say("Connecting …");
      connect();
    }
  }

  list.addEventListener("scroll", () => {
    isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END_PX;
    if (isAtEnd) unseen = 0;
    show();
  });
  list.addEventListener("click", (event) => {
    const request = event.target.closest("[data-request]")?.dataset.request;
    if (!request) return;
    filters.elements.requestId.value = request;
    filter();
  });
  jump.addEventListener("click", () => {
    list.scrollTop = list.scrollHeight;
    list.focus();
  });
  pause.addEventListener("click", togglePause);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", () => {
    clearTimeout(typingTimer);
    typingTimer = setTimeout(filter, TYPING_MS);
  });
  window.addEventListener("online", connect);
  document.addEventListener("visibilitychange", () => document.hidden || connect());
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => event.persisted && connect());

  for (const name of ["filters", "status"]) part(name).hidden = false;
  part("still").hidden = true;
  list.scrollTop = list.scrollHeight;
  show();
  connect();
})();
