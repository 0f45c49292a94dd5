import { assert, assertEquals } from "@std/assert";
import { parseFields } from "./forms.ts";
import { isRefusal } from "./limits.ts";

const FORM = "application/x-www-form-urlencoded";
const JSON_TYPE = "application/json";

/** The fields of a body, or why there are none. */
async function parse(
  body: string | Uint8Array<ArrayBuffer>,
  contentType: string | null = FORM,
): Promise<[string, string][] | string> {
  const bytes = typeof body === "string"
    ? new TextEncoder().encode(body)
    : body;
  const fields = await parseFields(bytes, contentType);
  if (!isRefusal(fields)) return [...fields];
  assertEquals(fields.status, 400);
  return fields.error;
}

const FIELDS: [string, string][] = [["socket_id", "1.1"], [
  "channel_name",
  "private-a",
]];

Deno.test("parseFields reads a form and JSON, whatever type the client declares", async () => {
  const json = JSON.stringify(Object.fromEntries(FIELDS));
  for (
    const type of [
      null,
      "",
      FORM,
      `${FORM}; charset=UTF-8`,
      JSON_TYPE,
      "Application/JSON;charset=utf-8",
      "application/vnd.api+json",
      "text/plain;charset=UTF-8",
      "nonsense",
    ]
  ) {
    for (const body of ["socket_id=1.1&channel_name=private-a", json]) {
      assertEquals(await parse(body, type), FIELDS, `${type}: ${body}`);
    }
    assertEquals(await parse(`\ufeff \r\n${json}\n`, type), FIELDS);
  }
});

Deno.test("parseFields turns JSON into the fields of a form", async () => {
  const value = {
    channel_name: ["a", "b"],
    "list[]": ["x"],
    none: null,
    count: 1,
    isOn: true,
    mixed: [1, null, "c"],
    deep: { a: [1] },
    empty: [],
  };
  assertEquals(await parse(JSON.stringify(value), JSON_TYPE), [
    ["channel_name[]", "a"],
    ["channel_name[]", "b"],
    ["list[]", "x"],
    ["count", "1"],
    ["isOn", "true"],
    ["mixed[]", "1"],
    ["mixed[]", "c"],
    ["deep", '{"a":[1]}'],
  ]);
  const proto = '{"__proto__":"x","constructor":"y"}';
  assertEquals(await parse(proto), [["__proto__", "x"], ["constructor", "y"]]);
});

Deno.test("parseFields refuses names in JSON that are not strings", async () => {
  const neither = "is neither a string nor an array of strings";
  const cases: [fields: Record<string, unknown>, error: string][] = [
    [{ socket_id: 123.45 }, "socket_id is not a string"],
    [{ socket_id: ["1.1"] }, "socket_id is not a string"],
    [{ socket_id: null }, "socket_id is not a string"],
    [{ app_id: 1 }, "app_id is not a string"],
    [{ app_key: {} }, "app_key is not a string"],
    [{ channel_name: 1 }, `channel_name ${neither}`],
    [{ channel_name: {} }, `channel_name ${neither}`],
    [{ channel_name: null }, `channel_name ${neither}`],
    [{ channel_name: ["a", 1] }, `channel_name ${neither}`],
    [{ channel_name: [["a"]] }, `channel_name ${neither}`],
    [{ "channel_name[]": [null] }, `channel_name[] ${neither}`],
  ];
  for (const [fields, error] of cases) {
    assertEquals(await parse(JSON.stringify(fields), JSON_TYPE), error);
  }
});

Deno.test("parseFields says of which kind a body is not", async () => {
  for (const broken of ["{", '{"socket_id":"1.1"', "{}x", "{a:1}"]) {
    assertEquals(await parse(broken, JSON_TYPE), "The body is not valid JSON");
  }
  assertEquals(await parse(Uint8Array.of(0xff)), "The body is not UTF-8");
  for (
    const type of ["multipart/form-data", "multipart/form-data;boundary=x"]
  ) {
    const error = "The body is not multipart/form-data, as declared";
    assertEquals(await parse("socket_id=1.1", type), error);
  }
});

Deno.test("parseFields reads multipart/form-data, without its files", async () => {
  const form = new FormData();
  for (const [name, value] of FIELDS) form.append(name, value);
  form.append("channel_name[]", "ü");
  form.append("file", new Blob(["x"]), "x.txt");
  const response = new Response(form);
  const type = response.headers.get("content-type");
  assert(type?.startsWith("multipart/form-data"));
  const fields = await parse(await response.bytes(), type);
  assertEquals(fields, [...FIELDS, ["channel_name[]", "ü"]]);
});
