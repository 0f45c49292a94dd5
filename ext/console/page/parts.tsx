/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The small parts that all views of the page are made of.
 *
 * @module
 */

import type { ComponentChildren } from "npm:preact@11.2.0";
import { useEffect, useRef, useState } from "npm:preact@11.2.0/hooks";
import type { Sample } from "../figures.ts";
import { get, Refused } from "./api.ts";
import {
  clockTime,
  grouped,
  linePath,
  niceMax,
  plural,
  shortNode,
  SHOWN_MS,
  visible,
} from "./model.ts";

/** A text from anywhere, which stays within its own place. */
export function Text({ of, empty = "–" }: { of?: string; empty?: string }) {
  return of
    ? <bdi class="text">{visible(of)}</bdi>
    : <span class="none">{empty}</span>;
}

/** A server's id. */
export function Node({ of }: { of: string }) {
  return <code class="server" title={visible(of)}>{shortNode(of)}</code>;
}

/** Says that some servers have not answered. */
export function Silence({ count, what }: { count: number; what: string }) {
  if (count === 0) return null;
  return (
    <p class="note warning" role="status">
      {plural(count, "server")} {count === 1 ? "does" : "do"} not answer:{" "}
      {count === 1 ? "its" : "their"} {what} are not shown.
    </p>
  );
}

/** A sentence of the server's own, in which `names` are code. */
export function Sentence({ of }: { of: string }) {
  return (
    <bdi class="text">
      {visible(of).split("`").map((part, n) =>
        n % 2 ? <code key={n}>{part}</code> : part
      )}
    </bdi>
  );
}

/** A figure with its name. */
export function Tile(
  { name, value, hint }: { name: string; value: string; hint?: string },
) {
  return (
    <div class="tile">
      <dt>{name}</dt>
      <dd>{value}</dd>
      {hint && <dd class="hint">{hint}</dd>}
    </div>
  );
}

/** A field of a form. */
export function Field(
  { label, value, onInput, type = "text", ...more }: {
    label: string;
    value: string;
    onInput: (value: string) => void;
    type?: "text" | "password";
    placeholder?: string;
    autocomplete?: string;
    required?: boolean;
  },
) {
  return (
    <label class="field">
      <span>{label}</span>
      <input
        // The types of the two differ in what this form does not use.
        type={type as "text"}
        value={value}
        spellcheck={false}
        autocomplete="off"
        {...more}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
    </label>
  );
}

/** A choice of few. */
export function Choice(
  { label, value, options, onChange }: {
    label: string;
    value: string;
    options: readonly (readonly [value: string, text: string])[];
    onChange: (value: string) => void;
  },
) {
  return (
    <label class="field">
      <span>{label}</span>
      <select
        value={value}
        onChange={(event) => onChange(event.currentTarget.value)}
      >
        {options.map(([one, text]) => (
          <option key={one} value={one} selected={one === value}>{text}</option>
        ))}
      </select>
    </label>
  );
}

/** A question before something that cannot be undone, or details of something. */
export function Dialog(
  { title, onClose, children }: {
    title: string;
    onClose: () => void;
    children: ComponentChildren;
  },
) {
  // A dialog of the browser keeps the focus, and gives it back.
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby="dialog-title"
      onClose={onClose}
    >
      <header>
        <h2 id="dialog-title">{title}</h2>
        <button
          type="button"
          class="quiet"
          aria-label="Close"
          onClick={() => dialog.current?.close()}
        >
          ✕
        </button>
      </header>
      {children}
    </dialog>
  );
}

/** Which part of a list is shown. */
export function Pager(
  { page, size, found, total, reach = found, what, onPage }: {
    page: number;
    size: number;
    found: number;
    total: number;
    /** How many can be shown. */
    reach?: number;
    what: string;
    onPage: (page: number) => void;
  },
) {
  const last = Math.max(0, Math.ceil(reach / size) - 1);
  const range = found === 0
    ? "none"
    : `${grouped(page * size + 1)}–${
      grouped(Math.min(reach, (page + 1) * size))
    }`;
  const all = found === total ? "" : ` (of ${grouped(total)})`;
  return (
    <nav class="pager" aria-label={`Pages of ${what}`}>
      <button
        type="button"
        disabled={page === 0}
        onClick={() => onPage(page - 1)}
      >
        ← Before
      </button>
      <span>{range} of {grouped(found)}{all}</span>
      <button
        type="button"
        disabled={page >= last}
        onClick={() => onPage(page + 1)}
      >
        Next →
      </button>
    </nav>
  );
}

/** How a table is sorted. */
type Sort = { by: string; order: "up" | "down" };

/** The head of a column by which a table is sorted. */
function SortHead(
  { name, by, sort, onSort, isNumber = false }: {
    name: string;
    by: string;
    sort: Sort;
    onSort: (sort: Sort) => void;
    isNumber?: boolean;
  },
) {
  const isSorted = sort.by === by;
  // The most first, and texts from A.
  const first = isNumber ? "down" : "up";
  const other = isNumber ? "up" : "down";
  const order = isSorted && sort.order === first ? other : first;
  return (
    <th
      scope="col"
      class={isNumber ? "number" : ""}
      aria-sort={!isSorted
        ? "none"
        : sort.order === "up"
        ? "ascending"
        : "descending"}
    >
      <button type="button" class="sort" onClick={() => onSort({ by, order })}>
        {name}
        <span aria-hidden="true">
          {isSorted ? sort.order === "up" ? " ↑" : " ↓" : ""}
        </span>
      </button>
    </th>
  );
}

/** Rows on a page of a list. */
const SIZE = 50;

/**
 * What is seen of a list: the rows that fit a search, sorted, a page of them at a
 * time. After another search or order, and after `restart`, that is the first page.
 */
export function useListing(first: Sort) {
  const [search, setSearch] = useState("");
  const [sort, setSort] = useState(first);
  const [page, setPage] = useState(0);
  const settled = useSettled(search);
  const restart = () => setPage(0);
  return {
    search,
    restart,
    setSearch: (text: string) => {
      setSearch(text);
      restart();
    },
    query: {
      ...{ search: settled, page, size: SIZE },
      ...{ sort: sort.by, order: sort.order },
    },
    pager: { page, size: SIZE, onPage: setPage },
    head: (name: string, by: string, isNumber = false) => (
      <SortHead
        {...{ name, by, sort, isNumber }}
        onSort={(next) => {
          setSort(next);
          restart();
        }}
      />
    ),
  };
}

/**
 * Asks for something now, whenever the query changes, and every two seconds while the
 * page is seen.
 */
export function useAnswer<T>(
  name: string,
  query: Record<string, string | number>,
  onRefused: (error: Refused) => void,
): { answer: T | null; error: string; again: () => void } {
  const [answer, setAnswer] = useState<T | null>(null);
  const [error, setError] = useState("");
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([name, query]);
  useEffect(() => {
    const ending = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let hasAnswer = false;
    const ask = async () => {
      try {
        if (!document.hidden || !hasAnswer) {
          setAnswer(await get<T>(name, query, ending.signal));
          hasAnswer = true;
          setError("");
        }
      } catch (failure) {
        if (ending.signal.aborted) return;
        if (failure instanceof Refused) {
          if (failure.status === 401) return onRefused(failure);
          setError(failure.message);
        }
      }
      if (!ending.signal.aborted) timer = setTimeout(ask, 2_000);
    };
    ask();
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [key, turn]);
  return { answer, error, again: () => setTurn((before) => before + 1) };
}

/** A value that settles a moment after the last change. */
export function useSettled<T>(value: T, ms = 300): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [JSON.stringify(value)]);
  return settled;
}

// ---- Charts -----------------------------------------------------------------

/** A line of a chart. */
export interface Series {
  readonly name: string;
  readonly valueOf: (sample: Sample) => number;
}

/** A chart of the last five minutes. */
export function Chart(
  { title, unit, samples, series }: {
    title: string;
    unit: string;
    samples: readonly Sample[];
    series: readonly Series[];
  },
) {
  const [seenAt, setSeenAt] = useState<number | null>(null);
  const now = samples.at(-1)?.at ?? 0;
  const values = samples.flatMap((one) =>
    series.map(({ valueOf }) => valueOf(one))
  );
  const max = niceMax(Math.max(0, ...values));
  // The sample under the pointer, or the last.
  const read = seenAt === null
    ? samples.at(-1)
    : samples.findLast(({ at }) => at <= now - SHOWN_MS * (1 - seenAt));
  const said = series.map(({ name, valueOf }) =>
    `${name} ${read ? grouped(valueOf(read)) : "–"}`
  ).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        <strong>{title}</strong>
        <span class="legend">
          {series.map(({ name, valueOf }, index) => (
            <span key={name}>
              <i class={`line-${index}`} aria-hidden="true" />
              {name} <b>{read ? grouped(valueOf(read)) : "–"}</b>
            </span>
          ))}
        </span>
      </figcaption>
      <div
        class="plot"
        role="img"
        aria-label={`${title}: ${said} ${unit}`}
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          setSeenAt((event.clientX - box.left) / box.width);
        }}
        onPointerLeave={() => setSeenAt(null)}
      >
        <svg viewBox="0 0 300 100" preserveAspectRatio="none">
          {[0, 50, 100].map((y) => (
            <line key={y} class="grid" x1="0" x2="300" y1={y} y2={y} />
          ))}
          {series.map(({ name, valueOf }, index) => (
            <path
              key={name}
              class={`line-${index}`}
              d={linePath(samples, valueOf, max, now)}
            />
          ))}
          {seenAt !== null && read && (
            <line
              class="cursor"
              x1={300 * seenAt}
              x2={300 * seenAt}
              y1="0"
              y2="100"
            />
          )}
        </svg>
        <span class="most" aria-hidden="true">{grouped(max)}</span>
        <span class="least" aria-hidden="true">0</span>
      </div>
      <div class="times" aria-hidden="true">
        <span>5 min ago</span>
        <span>
          {read && seenAt !== null ? clockTime(read.at).slice(0, 8) : ""}
        </span>
        <span>now</span>
      </div>
    </figure>
  );
}
