/**
 * What a script needs of a browser: the syntax and the built-in names in it, with
 * the version of each browser that has them, by the compatibility data of MDN.
 *
 * @module
 */
import { parse } from "npm:acorn@8.19.0";
import mdn from "npm:@mdn/browser-compat-data@8.1.9" with { type: "json" };

/** The browsers of MDN's data, and a version of each. */
export type Versions = Record<string, number>;

/** A node of a syntax tree. */
interface Node {
  type: string;
  // deno-lint-ignore no-explicit-any -- nodes differ, and the walk is generic
  [field: string]: any;
}

/** A part of MDN's data: the support of a feature, and the features in it. */
interface Feature {
  __compat?: { support: Record<string, unknown> };
  // deno-lint-ignore no-explicit-any -- names of features beside `__compat`
  [name: string]: any;
}

// The published types describe the same in more detail.
const { api, javascript } = mdn as unknown as Record<string, Feature>;
const { builtins } = javascript as Record<string, Feature>;

/** The newest syntax that the parser accepts. */
const ECMA_VERSION = 2022;

/** Features of MDN's data by what they look like in a tree. */
const SYNTAX: [path: string, is: (node: Node, isTop: boolean) => boolean][] = [
  [
    "classes/static/initialization_blocks",
    ({ type }) => type === "StaticBlock",
  ],
  [
    "classes/private_class_fields",
    ({ type, key }) => type === "PropertyDefinition" && isPrivate(key),
  ],
  [
    "classes/private_class_methods",
    ({ type, key }) => type === "MethodDefinition" && isPrivate(key),
  ],
  [
    "classes/private_class_fields_in",
    ({ type, left }) => type === "BinaryExpression" && isPrivate(left),
  ],
  // Fields are older, but before Safari 16 not with parentheses in their value.
  [
    "classes/public_class_fields",
    ({ type, value }) => type === "PropertyDefinition" && hasParentheses(value),
  ],
  ["operators/nullish_coalescing", ({ operator }) => operator === "??"],
  [
    "operators/nullish_coalescing_assignment",
    ({ operator }) => operator === "??=",
  ],
  ["operators/logical_or_assignment", ({ operator }) => operator === "||="],
  ["operators/logical_and_assignment", ({ operator }) => operator === "&&="],
  ["operators/optional_chaining", ({ type }) => type === "ChainExpression"],
  ["operators/import", ({ type }) => type === "ImportExpression"],
  ["operators/import_meta", ({ type }) => type === "MetaProperty"],
  [
    "operators/await/top_level",
    (node, isTop) =>
      isTop && (node.type === "AwaitExpression" || node.await === true),
  ],
  ["statements/for_await_of", (node) => node.await === true],
  [
    "statements/export/namespace",
    ({ type, exported }) => type === "ExportAllDeclaration" && exported,
  ],
  [
    "regular_expressions/lookbehind_assertion",
    ({ regex }) => /\(\?<[=!]/.test(regex?.pattern ?? ""),
  ],
  [
    "builtins/RegExp/hasIndices",
    ({ regex }) => regex?.flags.includes("d") ?? false,
  ],
  ["builtins/BigInt", ({ bigint }) => bigint !== undefined],
];

/**
 * The syntax and the built-in names of a script that a browser of such a version
 * may not have. A member that several interfaces have counts as the oldest of them:
 * a tree does not tell what an expression is. Members that the script defines are not
 * built in, and names that are `known` need not be.
 *
 * @throws if the script is no ECMAScript of 2022.
 */
export function missingFeatures(
  script: string,
  versions: Versions,
  known: Iterable<string> = [],
): string[] {
  const accepted = new Set(known);
  const own = definedMembers(script);
  const missing = new Set<string>();
  for (const { name, isMember, features } of neededFeatures(script)) {
    const isOwn = accepted.has(name) || (isMember && own.has(name));
    const isThere = features.some((feature) => isSupported(feature, versions));
    if (!isOwn && !isThere) missing.add(name);
  }
  return [...missing].sort();
}

/** The names of globals and of members that a script reads and does not define. */
export function readNames(script: string): Set<string> {
  const tree = parseScript(script);
  const own = new Set([...declaredNames(tree), ...definedMembers(script)]);
  const names = [...walk(tree)].flatMap(({ node }) => nameOf(node));
  return new Set(names.filter((name) => !own.has(name)));
}

/** The names of members that the classes and objects of a script define. */
export function definedMembers(script: string): Set<string> {
  const names = new Set<string>();
  for (const { node } of walk(parseScript(script))) {
    const isDefinition = /^(MethodDefinition|Property.*)$/.test(node.type);
    if (isDefinition && !node.computed) names.add(node.key.name);
  }
  return names;
}

/** A need of a script, and the features any of which fulfils it. */
interface Need {
  name: string;
  isMember: boolean;
  features: Feature[];
}

function* neededFeatures(script: string): Generator<Need> {
  const tree = parseScript(script);
  const own = declaredNames(tree);
  const isGlobal = ({ type, name }: Node) =>
    type === "Identifier" && !own.has(name);
  for (const { node, isTop } of walk(tree)) {
    for (const [path, is] of SYNTAX) {
      if (!is(node, isTop)) continue;
      yield { name: path, isMember: false, features: [featureAt(path)] };
    }
    const [name] = nameOf(node);
    if (name === undefined) continue;
    const isMember = node.type === "MemberExpression" &&
      node.object.name !== "globalThis";
    if (!isMember && node.type === "Identifier" && !isGlobal(node)) continue;
    const holders = isMember && isGlobal(node.object)
      ? globals(node.object.name)
      : [];
    const exact = holders.flatMap((holder) => membersOf(holder, name));
    const features = !isMember
      ? globals(name)
      : exact.length > 0
      ? exact
      : MEMBERS.get(name) ?? [];
    if (features.length > 0) yield { name, isMember, features };
  }
}

function parseScript(script: string): Node {
  // A module may be read as such even if it only mentions these words.
  const isModule = /\b(export|import)\b(?!\()/.test(script);
  return parse(script, {
    ecmaVersion: ECMA_VERSION,
    sourceType: isModule ? "module" : "script",
    preserveParens: true,
  });
}

/** A node and all nodes in it; whether it is outside of all functions. */
function* walk(
  node: Node,
  isTop = true,
): Generator<{ node: Node; isTop: boolean }> {
  yield { node, isTop };
  const isInTop = isTop && !/Function/.test(node.type);
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child?.type === "string") yield* walk(child, isInTop);
    }
  }
}

/** The name of a global or of a member that a node reads. */
function nameOf(node: Node): string[] {
  if (node.type === "Identifier") return [node.name];
  if (node.type !== "MemberExpression") return [];
  const { property, computed } = node;
  if (!computed) return property.type === "Identifier" ? [property.name] : [];
  return typeof property.value === "string" ? [property.value] : [];
}

function isPrivate(node: Node | null): boolean {
  return node?.type === "PrivateIdentifier";
}

function hasParentheses(value: Node | null): boolean {
  if (value === null) return false;
  return [...walk(value)].some(({ node }) =>
    node.type === "ParenthesizedExpression"
  );
}

/** The names that a script itself declares, in any scope. */
function declaredNames(tree: Node): Set<string> {
  const names = new Set<string>();
  for (const { node } of walk(tree)) {
    const patterns = [
      ...(/^(Function|Class)/.test(node.type) ? [node.id] : []),
      ...(node.params ?? []),
      node.type === "VariableDeclarator" ? node.id : node.param,
      /^Import.*Specifier$/.test(node.type) ? node.local : null,
    ];
    for (const pattern of patterns) {
      if (!pattern?.type) continue;
      for (const { node: part } of walk(pattern)) {
        if (part.type === "Identifier") names.add(part.name);
      }
    }
  }
  return names;
}

// ---- Data -------------------------------------------------------------------

/** The features of all interfaces that are named so, by the name of the member. */
const MEMBERS = collectMembers();

function collectMembers(): Map<string, Feature[]> {
  const members = new Map<string, Feature[]>();
  for (const holder of [...Object.values(api!), ...Object.values(builtins!)]) {
    for (const [name, feature] of Object.entries<Feature>(holder)) {
      // Static members have another entry, and are not members of an instance.
      if (name === "__compat" || name.endsWith("_static")) continue;
      members.set(name, [...members.get(name) ?? [], feature]);
    }
  }
  return members;
}

/** The features of a global: an interface, a built-in object or a function. */
function globals(name: string): Feature[] {
  return [api, builtins, builtins?.globals, api?.Window].flatMap((holder) =>
    holder && Object.hasOwn(holder, name) ? [holder[name]] : []
  );
}

function membersOf(holder: Feature, name: string): Feature[] {
  return [name, `${name}_static`].flatMap((member) =>
    Object.hasOwn(holder, member) ? [holder[member]] : []
  );
}

function featureAt(path: string): Feature {
  const feature = path.split("/").reduce<Feature | undefined>(
    (holder, name) => holder?.[name],
    javascript,
  );
  if (!feature) throw new TypeError(`MDN's data has no ${path}`);
  return feature;
}

/** What MDN says about a browser and a feature. */
interface Support {
  version_added?: unknown;
  version_removed?: unknown;
  flags?: unknown;
  prefix?: unknown;
}

/**
 * Whether each browser has a feature. Support behind a setting, under another name
 * or for some versions only is none.
 */
function isSupported({ __compat }: Feature, versions: Versions): boolean {
  if (__compat === undefined) return true;
  return Object.entries(versions).every(([browser, version]) => {
    const support = __compat.support[browser] ?? {};
    const statements: Support[] = Array.isArray(support) ? support : [support];
    return statements.some(({ version_added: added, ...limits }) => {
      if (limits.version_removed || limits.flags || limits.prefix) return false;
      return Number.parseFloat(String(added).replace("≤", "")) <= version;
    });
  });
}
