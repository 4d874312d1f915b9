// Calls to this page's own server. An error has the message and the hint that a command would print.

export class Refused extends Error {
  constructor(told, status) {
    super(told.error ?? `the page answered ${status}`);
    this.hint = told.hint ?? "";
    this.field = told.field;
    this.code = told.code;
    this.status = status;
  }
}

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused({ error: "the page's server does not answer", hint: "check that `headrace page` still runs" }, 0);
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(told, answer.status);
  return told;
}

export const get = (path) => call(path, { cache: "no-store" });

const TOKEN = "headrace-token";
// The address that `headrace page --actions` prints has the token behind its #, which no browser sends.
const given = /^#token=(.+)$/.exec(location.hash);
if (given) {
  sessionStorage.setItem(TOKEN, decodeURIComponent(given[1]));
  history.replaceState(null, "", location.pathname);
}

export const token = () => sessionStorage.getItem(TOKEN) ?? "";
export const setToken = (text) => sessionStorage.setItem(TOKEN, text.trim());

export const act = (name, order) =>
  call(`/actions/${name}`, {
    method: "POST",
    headers: { authorization: `Bearer ${token()}`, "content-type": "application/json" },
    body: JSON.stringify(order),
  });
