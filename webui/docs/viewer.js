// The page at /docs: shows the API's own description. A key that is typed here lives in this variable and nowhere else.
"use strict";

const form = document.getElementById("key-form");
const message = document.getElementById("message");
let key = "";

async function load() {
  const answer = await fetch("api/v1/openapi.json", { headers: withKey({}), credentials: "omit" });
  if (answer.ok) {
    form.remove();
    show(await answer.json());
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  form.hidden = false;
  message.textContent = key ? problem.error?.message ?? problem.details ?? `${answer.status} ${answer.statusText}` : "";
  document.getElementById("key").focus();
}

function withKey(headers) {
  return key && !headers.Authorization ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

function show(spec) {
  spec.servers = [{ url: new URL(".", location.href).href.replace(/\/$/, "") }]; // also behind a proxy with a path of its own
  SwaggerUIBundle({
    spec,
    dom_id: "#viewer",
    deepLinking: true,
    docExpansion: "list",
    filter: true,
    persistAuthorization: false,
    validatorUrl: null, // it would send the description to swagger.io
    requestInterceptor: (request) => ({ ...request, headers: withKey(request.headers) }),
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  load();
});
load();
