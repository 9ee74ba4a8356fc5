// A JSON API: GET /api/hello?name=Ada, or POST {"name": "Ada"}.
export function GET(request) {
  return Response.json({ hello: request.nextUrl.searchParams.get("name") || "world" });
}

export async function POST(request) {
  try {
    const { name } = await request.json();
    return Response.json({ hello: name }, { status: 201 });
  } catch {
    return Response.json({ error: "The body must be JSON." }, { status: 400 });
  }
}
