// The console's one script: copy and print buttons, tabs, dialogs, menus, live refresh, relative times.
// Everything is delegated from the document, so parts swapped in by htmx work without set-up.
"use strict";

(() => {
  const DONE_MS = 1400;

  async function copy(button) {
    const source = button.dataset.copyFrom
      ? document.getElementById(button.dataset.copyFrom).textContent
      : button.dataset.copy;
    try {
      await navigator.clipboard.writeText(source);
    } catch {
      // Plain http on another host has no clipboard API: select-and-copy still works there.
      const area = document.createElement("textarea");
      area.value = source;
      area.style.position = "fixed";
      area.style.opacity = "0";
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const label = button.getAttribute("aria-label");
    button.classList.add("is-done");
    button.setAttribute("aria-label", "Copied");
    announce("Copied");
    setTimeout(() => {
      button.classList.remove("is-done");
      if (label === null) button.removeAttribute("aria-label");
      else button.setAttribute("aria-label", label);
    }, DONE_MS);
  }

  function announce(text) {
    const region = document.getElementById("announcements");
    if (region) region.textContent = text;
  }

  function selectTab(tab) {
    for (const other of tab.parentElement.querySelectorAll("[role=tab]")) {
      const isSelected = other === tab;
      other.setAttribute("aria-selected", String(isSelected));
      other.tabIndex = isSelected ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !isSelected;
    }
  }

  document.addEventListener("click", (event) => {
    const target = event.target;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(target)) menu.open = false;
    }
    const copyButton = target.closest("[data-copy], [data-copy-from]");
    if (copyButton) copy(copyButton);
    const tab = target.closest("[role=tab]");
    if (tab) selectTab(tab);
    const opener = target.closest("[data-dialog]");
    if (opener) document.getElementById(opener.dataset.dialog).showModal();
    const closer = target.closest("[data-close-dialog]");
    if (closer) closer.closest("dialog").close();
    if (target.closest("[data-print]")) window.print();
    if (target instanceof HTMLDialogElement) target.close(); // a click on the backdrop
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
    }
    const tab = event.target.closest?.("[role=tab]");
    if (!tab || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")];
    const step = event.key === "ArrowRight" ? 1 : -1;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    selectTab(next);
    next.focus();
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });

  // A form that was sent cannot be sent again by a second click.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    for (const button of event.target.querySelectorAll("button[type=submit]")) {
      setTimeout(() => { button.disabled = true; }, 0);
    }
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      for (const button of document.querySelectorAll("button[type=submit]")) button.disabled = false;
    }
  });

  // What is wrong with a form that comes back may be far below what a page begins with.
  const problem = document.querySelector("form .input[aria-invalid=true], form .notice.bad[role=alert]");
  if (problem) {
    problem.scrollIntoView({ block: "center" });
    problem.focus({ preventScroll: true });
  }

  // Live parts ask again every few seconds, but not in a tab nobody looks at.
  const REFRESH_MS = 4000;
  setInterval(() => {
    if (document.hidden || !window.htmx) return;
    for (const part of document.querySelectorAll("[data-live]")) {
      // Somebody is being asked in it: let them answer first.
      if (!part.querySelector("dialog[open]")) window.htmx.trigger(part, "refresh");
    }
  }, REFRESH_MS);

  function relative(seconds) {
    if (seconds < 5) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)}s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)}m ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ago`;
    return null; // days change slowly: what the server wrote stays
  }
  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const text = relative((Date.now() - Date.parse(time.dateTime)) / 1000);
      if (text !== null) time.textContent = text;
    }
  }, 10000);
})();
