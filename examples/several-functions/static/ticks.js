const COUNT = 10;
const shown = document.getElementById("ticks");
const source = new EventSource(`/api/ticks?count=${COUNT}`);

source.onmessage = ({ data }) => {
  const { number, of } = JSON.parse(data);
  shown.textContent = `${"●".repeat(number)}${"○".repeat(of - number)}`;
  // Without this the browser would connect again when the stream ends.
  if (number === of) source.close();
};
source.onerror = () => {
  source.close();
  shown.textContent = "the stream broke off";
};
