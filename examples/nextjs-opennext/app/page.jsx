// A static page: the same for everybody, known when the app is built.
export default function Home() {
  return (
    <>
      <h1>A Next.js app, served as one function</h1>
      <p>
        Built with OpenNext: pages and routes run in <code>functions/default.func</code>, scripts and
        styles come from <code>static/</code>.
      </p>
      <ul>
        <li>
          <b>Time</b> is rendered on the server for every visit.
        </li>
        <li>
          <b>Stream</b> shows text as the server writes it.
        </li>
        <li>
          <b>Post</b> takes its name from the address.
        </li>
      </ul>
    </>
  );
}
