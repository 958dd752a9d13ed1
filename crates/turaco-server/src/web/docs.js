// Shows openapi.json.

const element = (name, text, ...children) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    element(
      "tr",
      "",
      element("td", "", element("code", name + (schema.required?.includes(name) ? " *" : ""))),
      element("td", field.type ?? (field.oneOf ?? []).map((one) => one.type).join(" or ")),
      element("td", [field.description, field.enum && field.enum.join(", "), field.default !== undefined && `default ${field.default}`].filter(Boolean).join("; ")),
    ),
  );
  return element("table", "", ...rows);
}

const described = await (await fetch("/openapi.json")).json();
const resolve = (schema) => (schema.$ref ? described.components.schemas[schema.$ref.split("/").pop()] : schema);
const sections = [];
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", route.summary));
    if (route.description) section.append(element("p", route.description));
    for (const [kind, body] of Object.entries(route.requestBody?.content ?? {})) {
      section.append(element("p", kind), fields(resolve(body.schema)));
    }
    sections.push(section);
  }
}
document.getElementById("routes").replaceChildren(...sections);
