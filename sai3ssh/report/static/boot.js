// The document of a written report: JSON, gzipped and in base64, in the page.

async function unpack(encoded) {
  const packed = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(plain).text());
}

unpack(document.getElementById('document').textContent.trim()).then((doc) => {
  window.sai3ssh.render(doc);
  document.documentElement.dataset.ready = 'true';
}).catch((error) => {
  say(`This report cannot be shown: ${error.message}. A browser of 2023 or later is needed.`);
  document.getElementById('status').classList.add('failed');
});
