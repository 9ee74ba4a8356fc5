"use client";

import { useEffect, useState } from "react";

// Reads /api/stream in the browser and shows each piece when it arrives.
export default function Stream() {
  const [text, setText] = useState("");
  const [failure, setFailure] = useState("");

  useEffect(() => {
    const leaving = new AbortController();
    read(leaving.signal, (piece) => setText((before) => before + piece)).catch((error) => {
      if (!leaving.signal.aborted) setFailure(error.message);
    });
    return () => leaving.abort();
  }, []);

  return (
    <>
      <h1>Streamed</h1>
      <p id="streamed">{text}</p>
      {failure && <p role="alert">{failure}</p>}
    </>
  );
}

async function read(signal, show) {
  const response = await fetch("/api/stream", { signal });
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) show(piece);
}
