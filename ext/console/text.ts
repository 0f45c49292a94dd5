/**
 * Texts from anywhere, made short and free of secrets.
 *
 * @module
 */

/** No name or reason of the server is longer. */
const NAME_UNITS = 300;

/** The beginning of a text, as well-formed Unicode. */
export function cut(text: string, units = NAME_UNITS): string {
  const short = text.length > units ? `${text.slice(0, units)}…` : text;
  return short.toWellFormed();
}

/**
 * The same text without what opens something: logins in URLs, signatures, and ids of
 * recovery sessions. No error of the server has any; those of programs may.
 */
export function withoutSecrets(text: string): string {
  return text
    .replace(/\/\/[^\s/@]*@/g, "//…@")
    .replace(/\b(auth_signature|auth|secret|password)=[^\s&]+/gi, "$1=…")
    .replace(/\/r\/[A-Za-z0-9_-]{16,128}/g, "/r/…");
}
