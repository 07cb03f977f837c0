// Bundles what the report needs of Apache ECharts, with the notices that its licenses ask for.
import { readFileSync } from 'node:fs';
import { build } from 'esbuild';

const read = (name) => readFileSync(new URL(`node_modules/${name}`, import.meta.url), 'utf8').trim();
const version = JSON.parse(read('echarts/package.json')).version;
const banner = `/*!
A bundle of parts of Apache ECharts ${version}, minified. Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0

${read('echarts/NOTICE')}

It contains zrender:

${read('zrender/LICENSE')}

and parts that come from d3:

${read('echarts/licenses/LICENSE-d3')}
*/`;

await build({
  entryPoints: ['entry.js'],
  outfile: process.argv[2],
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2020',
  charset: 'ascii',
  legalComments: 'none',
  banner: { js: banner },
});
