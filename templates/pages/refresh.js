// Loads the status anew every ten seconds, unless somebody reads it with the keyboard or it is not seen. Without a script
// the link does the same.
"use strict";
setInterval(async () => {
  const main = document.getElementById("main");
  if (document.hidden || (main.contains(document.activeElement) && document.activeElement !== main)) return;
  try {
    const answer = await fetch("/", { redirect: "error", cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (fresh) main.replaceChildren(...fresh.childNodes);
  } catch {
    // The next time may do.
  }
}, 10000);
