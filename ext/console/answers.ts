/**
 * What the console answers: JSON, the page and its parts, and refusals.
 *
 * @module
 */

import type { Denial } from "./access.ts";
import { CONSOLE_PAGE, PAGE_ETAG } from "./bundle.ts";

/** Nothing from elsewhere, no inline script, no frame, no text as markup. */
export const HEADERS = Object.freeze({
  "cache-control": "no-store, no-transform",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "content-security-policy": [
    ...["default-src 'none'", "script-src 'self'", "style-src 'self'"],
    ...["connect-src 'self'", "img-src data:", "form-action 'none'"],
    ...["base-uri 'none'", "frame-ancestors 'none'"],
    ...["require-trusted-types-for 'script'", "trusted-types 'none'"],
  ].join("; "),
});

export function json(
  body: object,
  cookies: readonly string[] = [],
): Response {
  const answer = Response.json(body, { headers: HEADERS });
  for (const cookie of cookies) answer.headers.append("set-cookie", cookie);
  return answer;
}

export function problem(
  status: number,
  error: string,
  headers: Record<string, string> = {},
): Response {
  return Response.json({ error }, {
    status,
    headers: { ...HEADERS, ...headers },
  });
}

export function denied(
  { status, error, takesPassword, retryAfterS }: Denial,
): Response {
  return Response.json({ error, takesPassword }, {
    status,
    headers: {
      ...HEADERS,
      ...(retryAfterS !== undefined && { "retry-after": `${retryAfterS}` }),
    },
  });
}

/** Sends a browser to the page, relative to which its parts are. */
export function redirectTo(path: string): Response {
  // Relative, as a proxy may have taken a part of the path off.
  const location = `${path.slice(path.lastIndexOf("/") + 1)}/`;
  return new Response(null, { status: 307, headers: { ...HEADERS, location } });
}

/** Serves the script or the style sheet, which are the same for everybody. */
export function servePart(
  { headers, method }: Request,
  name: string,
): Response {
  const isScript = name === "console.js";
  const etag = `"${PAGE_ETAG}"`;
  const answer = {
    ...HEADERS,
    "content-type": isScript
      ? "text/javascript; charset=utf-8"
      : "text/css; charset=utf-8",
    "cache-control": "no-cache",
    etag,
  };
  const known = headers.get("if-none-match")?.replace(/^W\//, "");
  if (known === etag) {
    return new Response(null, { status: 304, headers: answer });
  }
  const text = isScript ? CONSOLE_PAGE.script : CONSOLE_PAGE.style;
  return new Response(method === "HEAD" ? null : text, { headers: answer });
}

export function serveHtml(status: number, denial: Denial | null): Response {
  const isRefused = denial !== null && !denial.takesPassword;
  const body = isRefused
    ? `<main class="alone"><h1>Pusher console</h1><p>${
      escapeHtml(denial.error)
    }.</p></main>`
    : `<div id="app"></div><noscript><main class="alone"><p>The console is a ` +
      `script: it does not run in this browser.</p></main></noscript>` +
      `<script type="module" src="console.js"></script>`;
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>Pusher console</title>
<link rel="icon" href="${ICON}">
<link rel="stylesheet" href="console.css">
</head>
<body>${body}</body>
</html>
`;
  return new Response(html, {
    status,
    headers: { ...HEADERS, "content-type": "text/html; charset=utf-8" },
  });
}

const ICON = "data:image/svg+xml," + encodeURIComponent(
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" ' +
    'height="16" rx="4" fill="#4b3fd6"/><path d="M3 9h2l2-5 2 8 2-3h2" ' +
    'fill="none" stroke="#fff" stroke-width="1.5"/></svg>',
);

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (unit) => `&#${unit.charCodeAt(0)};`);
}
