// What went wrong, in the service's words, and what can be done about it.

import { element, put } from "./dom.js";

const TITLES = {
  0: "No answer",
  401: "Not let in",
  403: "Not let in",
  413: "Too much in one request",
  422: "Not accepted",
  429: "Too much to do",
  501: "Not explainable",
  503: "Not available",
  504: "Too late",
};

/** Show a Refusal in `place`; `retry` is offered where trying again may help, after a 429's Retry-After. */
export function showRefusal(place, refusal, retry) {
  const title = TITLES[refusal.status] ?? `Error ${refusal.status}`;
  const details = [refusal.status || "", refusal.type, refusal.requestId].filter(Boolean).join(" · ");
  const needsKey = refusal.status === 401 || refusal.status === 403;
  put(place,
    element("div", { class: "notice", role: "alert" },
      element("strong", {}, title),
      element("p", {}, refusal.message),
      details ? element("p", { class: "note mono" }, details) : null,
      needsKey || refusal.status === 422 ? null : retryButton(retry, refusal.retryAfterS),
    ),
  );
  if (needsKey) document.dispatchEvent(new CustomEvent("key-wanted", { detail: retry }));
}

/** The same, of something that is simply said. */
export function showNotice(place, title, text) {
  put(place, element("div", { class: "notice", role: "alert" }, element("strong", {}, title), element("p", {}, text)));
}

function retryButton(retry, waitS) {
  const button = element("button", { type: "button", class: "quiet", click: retry }, "Try again");
  let left = waitS ?? 0;
  const tick = () => {
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    left -= 1;
    if (left >= 0) setTimeout(tick, 1000);
  };
  tick();
  return button;
}
