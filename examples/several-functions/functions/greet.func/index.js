// CommonJS. GET /api/greet/fr?name=Ada answers {"greeting": "Bonjour, Ada!"}.
//
// What is returned without a `statusCode` is sent as JSON with status 200.
const greetings = require("./greetings.json");

const PLAIN = { "content-type": "text/plain" };

exports.handler = async (event) => {
  const language = event.rawPath.split("/")[3] || "en";
  const name = event.queryStringParameters?.name || "stranger";
  if (!Object.hasOwn(greetings, language)) {
    const known = Object.keys(greetings).join(", ");
    return { statusCode: 404, headers: PLAIN, body: `No greeting in "${language}"; there are: ${known}.\n` };
  }
  return { greeting: `${greetings[language]}, ${name}!` };
};
