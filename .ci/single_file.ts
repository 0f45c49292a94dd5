/**
 * Writes `dist/pusher.js`, the whole server as one module that imports only built-in
 * modules, and `dist/pusher.d.ts`, its types: this is `deno task single-file`.
 *
 * `deno bundle --declaration` declares only the entry file, without its comments.
 * Therefore this script joins the declarations of all files. It refuses declarations
 * that need more than joining, such as two types with the same name.
 *
 * @module
 */
import { posix } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "npm:typescript@6.0.3";
import manifest from "../deno.json" with { type: "json" };

const SOURCE = "mod.ts";
const FOLDER = "dist";
const SCRIPT = "pusher.js";
const TYPES = "pusher.d.ts";

/** Deno finds the types by the first line. */
const HEADER = `/* @ts-self-types="./${TYPES}" */
/* ${manifest.name} ${manifest.version}, licence ${manifest.license} */
`;

const root = fileURLToPath(new URL("..", import.meta.url));

// ---- Script -----------------------------------------------------------------

async function bundle(): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // Neither configuration nor lock file may change the script.
    args: [
      ...["bundle", "--quiet", "--no-config", "--no-lock", "--no-remote"],
      ...["--no-npm", "--platform", "deno", "--format", "esm", SOURCE],
    ],
    cwd: root,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const script = new TextDecoder().decode(stdout);
  const others = importsOf(script).filter((name) => !isBuiltIn(name));
  if (others.length === 0) return script;
  throw new Error(`Cannot make ${SCRIPT}: it imports ${others.join(", ")}`);
}

function importsOf(code: string): string[] {
  const { importedFiles } = ts.preProcessFile(code, true, true);
  return importedFiles.map(({ fileName }) => fileName);
}

function isBuiltIn(specifier: string): boolean {
  return specifier.startsWith("node:");
}

// ---- Types ------------------------------------------------------------------

/** The types of a file. */
interface Module {
  /** Names that other files may import. */
  exports: Set<string>;
  declarations: Declaration[];
}

/** The declaration of one name or, for variables, of several. */
interface Declaration {
  /** The file, or the built-in module. */
  file: string;
  names: string[];
  /** Names that the declaration refers to. */
  uses: Set<string>;
  /** With its comment, without `export`. */
  comment: string;
  code: string;
}

/** A file and all files that it imports, the file itself first. */
function readModules(entry: string): Map<string, Module> {
  const modules = new Map<string, Module>();
  // The compiler puts the imports of a file before the file.
  for (const [file, text] of emitDeclarations(entry)) {
    modules.set(file, readModule(file, text, modules));
  }
  return new Map([...modules].reverse());
}

/** The declarations of a file and of all files that it imports. */
function emitDeclarations(entry: string): Map<string, string> {
  const program = ts.createProgram([root + entry], {
    target: ts.ScriptTarget.ESNext,
    module: ts.ModuleKind.Preserve,
    allowImportingTsExtensions: true,
    declaration: true,
    emitDeclarationOnly: true,
    // The compiler does not know Deno's types. It need not: mod.ts states the types
    // of its exports, as JSR demands, and nothing else gets into the result.
    noCheck: true,
    lib: ["lib.esnext.d.ts"],
    types: [],
  });
  const declarations = new Map<string, string>();
  const { diagnostics } = program.emit(undefined, (path, text) => {
    const file = posix.relative(root, path).replace(/\.d\.ts$/, ".ts");
    declarations.set(file, text);
  });
  const [problem] = [...program.getOptionsDiagnostics(), ...diagnostics];
  if (!problem) return declarations;
  const message = ts.flattenDiagnosticMessageText(problem.messageText, " ");
  return refuse(problem.file?.fileName ?? entry, message);
}

function readModule(
  file: string,
  text: string,
  modules: ReadonlyMap<string, Module>,
): Module {
  const module: Module = { exports: new Set(), declarations: [] };
  const version = ts.ScriptTarget.ESNext;
  const { statements } = ts.createSourceFile(file, text, version, true);
  for (const statement of statements) {
    if (ts.isImportDeclaration(statement)) {
      module.declarations.push(...builtInNames(file, statement));
    } else if (ts.isExportDeclaration(statement)) {
      const names = passedOn(file, statement, modules);
      for (const name of names) module.exports.add(name);
    } else {
      const declaration = toDeclaration(file, statement);
      module.declarations.push(declaration);
      if (!statement.getText().startsWith("export ")) continue;
      for (const name of declaration.names) module.exports.add(name);
    }
  }
  return module;
}

/** The names that a file imports from a built-in module, each as an import. */
function builtInNames(
  file: string,
  { importClause, moduleSpecifier }: ts.ImportDeclaration,
): Declaration[] {
  const specifier = textOf(moduleSpecifier);
  return plainNames(file, importClause?.namedBindings).flatMap((name) =>
    isBuiltIn(specifier)
      ? {
        file: specifier,
        names: [name],
        uses: new Set(),
        comment: "",
        code: `import type { ${name} } from "${specifier}";`,
      }
      : []
  );
}

/** The names of an export statement that declares nothing. */
function passedOn(
  file: string,
  { exportClause, moduleSpecifier }: ts.ExportDeclaration,
  modules: ReadonlyMap<string, Module>,
): string[] {
  if (exportClause) return plainNames(file, exportClause);
  const target = posix.join(posix.dirname(file), textOf(moduleSpecifier));
  return [...modules.get(target)?.exports ?? []];
}

function plainNames(
  file: string,
  bindings: ts.NamedImportBindings | ts.NamedExportBindings | undefined,
): string[] {
  if (!bindings || !("elements" in bindings)) {
    return refuse(file, "names must be imported and exported one by one");
  }
  return bindings.elements.map(({ name, propertyName }) => {
    if (!propertyName) return name.text;
    return refuse(file, `${propertyName.text} is renamed to ${name.text}`);
  });
}

function textOf(specifier: ts.Expression | undefined): string {
  return specifier && ts.isStringLiteral(specifier) ? specifier.text : "";
}

function toDeclaration(file: string, statement: ts.Statement): Declaration {
  const uses = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node) && !isOwnName(node)) uses.add(node.text);
    if (ts.isImportTypeNode(node)) refuse(file, "a type imports another file");
    ts.forEachChild(node, visit);
  };
  visit(statement);
  const before = statement.getFullText().slice(
    0,
    statement.getLeadingTriviaWidth(),
  );
  const comments = before.match(/\/\*\*[^]*?\*\//g) ?? [];
  const comment = comments.findLast((text) => !text.includes("@module"));
  return {
    file,
    names: namesOf(file, statement),
    uses,
    comment: comment ? `${comment}\n` : "",
    code: statement.getText().replace(/^export /, ""),
  };
}

/** Whether a name is declared or qualified here, and so refers to nothing else. */
function isOwnName(node: ts.Identifier): boolean {
  const { parent } = node;
  return ("name" in parent && parent.name === node) ||
    ("right" in parent && parent.right === node);
}

function namesOf(file: string, statement: ts.Statement): string[] {
  const nodes = ts.isVariableStatement(statement)
    ? [...statement.declarationList.declarations]
    : [statement as ts.DeclarationStatement];
  return nodes.map(({ name }) =>
    name && ts.isIdentifier(name) ? name.text : refuse(file, "no name")
  );
}

function refuse(file: string, reason: string): never {
  throw new Error(`Cannot declare the types of ${file}: ${reason}`);
}

/** Declares all exports of an entry file, and all types that they refer to. */
function joinTypes(entry: string): string {
  const modules = readModules(entry);
  const all = [...modules.values()].flatMap(({ declarations }) => declarations);
  const exported = modules.get(entry)?.exports ?? new Set();
  const used = reachable(all, exported);
  const parts = all.filter((declaration) => used.has(declaration)).map(
    ({ names, comment, code }) => {
      const isExported = names.some((name) => exported.has(name));
      return `${comment}${isExported ? "export " : ""}${code}`;
    },
  );
  // Without the last statement all declarations would count as exported.
  return [moduleComment(entry), ...new Set(parts), "export {};\n"].join("\n\n");
}

/** The declarations of some names, and of all names that these use. */
function reachable(
  all: Declaration[],
  names: Iterable<string>,
): Set<Declaration> {
  const byName = new Map<string, Declaration[]>();
  for (const declaration of all) {
    for (const name of declaration.names) {
      byName.set(name, [...byName.get(name) ?? [], declaration]);
    }
  }
  const used = new Set<Declaration>();
  const seen = new Set(names);
  // The loop also visits names that are added meanwhile.
  for (const name of seen) {
    const found = byName.get(name) ?? [];
    const other = found.find(({ file }) => file !== found[0]?.file);
    if (other) refuse(other.file, `${found[0]?.file} declares ${name}, too`);
    for (const declaration of found) {
      used.add(declaration);
      for (const use of declaration.uses) seen.add(use);
    }
  }
  return used;
}

function moduleComment(file: string): string {
  const text = Deno.readTextFileSync(root + file);
  return /^\/\*\*[^]*?\*\//.exec(text)?.[0] ?? "";
}

// ---- Files ------------------------------------------------------------------

const files = {
  [SCRIPT]: HEADER + await bundle(),
  [TYPES]: joinTypes(SOURCE),
};
await Deno.mkdir(`${root}${FOLDER}`, { recursive: true });
for (const [name, text] of Object.entries(files)) {
  await Deno.writeTextFile(`${root}${FOLDER}/${name}`, text);
  console.log(
    `${FOLDER}/${name}: ${new TextEncoder().encode(text).length} bytes`,
  );
}
