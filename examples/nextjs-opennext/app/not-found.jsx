export default function NotFound() {
  return (
    <>
      <h1>Nothing here</h1>
      <p>This app has no page at this address.</p>
    </>
  );
}
