// Bundles the function and the page, each into one file. Run by build.sh.
import { build } from "esbuild";

// zod brings its messages in fifty languages along; English is loaded by another module.
const withoutTranslations = {
  name: "without-translations",
  setup({ onLoad }) {
    onLoad({ filter: /zod\/v4\/locales\/index\.js$/ }, () => ({ contents: "export {};" }));
  },
};

const shared = {
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "eof",
  define: { "process.env.NODE_ENV": '"production"' },
  plugins: [withoutTranslations],
  logLevel: "warning",
};

await build({
  ...shared,
  entryPoints: ["src/function.js"],
  outfile: "functions/chat.func/index.cjs",
  format: "cjs", // some of the dependencies call require
  platform: "node",
  target: "node22",
});

await build({
  ...shared,
  entryPoints: ["src/page.jsx"],
  outfile: "static/chat.js",
  format: "esm",
  platform: "browser",
  target: "es2022",
  jsx: "automatic",
  // zod would compile its checks with `new Function`, which the content security policy forbids.
  banner: { js: "globalThis.__zod_globalConfig = { jitless: true };" },
  // Preact is React in 17 KB instead of 220. Without these lines, and with react and react-dom
  // installed, the same page runs on React.
  alias: { react: "preact/compat", "react-dom": "preact/compat" },
});
