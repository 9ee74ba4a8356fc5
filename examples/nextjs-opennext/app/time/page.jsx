import { headers } from "next/headers";

// Reading the request makes the page dynamic: rendered for every visit.
export default async function Time() {
  const agent = (await headers()).get("user-agent") ?? "unknown";
  return (
    <>
      <h1>Rendered on the server</h1>
      <p>
        At <time id="rendered-at">{new Date().toISOString()}</time> for
      </p>
      <p id="agent">
        <code>{agent}</code>
      </p>
    </>
  );
}
