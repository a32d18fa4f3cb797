/** `npm run bundle`: writes what is deployed, of all hosts or of those that are named. */
import { join, relative } from 'node:path'
import { bundleHost, HOST_BUNDLES, type HostName } from './bundle.js'

const isHost = (name: string): name is HostName => name in HOST_BUNDLES

if (process.argv.includes('--help') || process.argv.includes('-h')) {
	console.log(`Writes what is deployed to a host into bundles/, one file each; without names, of all hosts.

  npm run bundle -- [${Object.keys(HOST_BUNDLES).join(' | ')}] …`)
	process.exit()
}
const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(HOST_BUNDLES)
for (const name of names) {
	if (!isHost(name)) {
		console.error(`There is no host '${name}', but ${Object.keys(HOST_BUNDLES).join(', ')}.`)
		process.exit(2)
	}
	const { file, gzipBytes } = await bundleHost(name, join(process.cwd(), 'bundles'))
	console.log(`${relative(process.cwd(), file)}: ${Math.round(gzipBytes / 1024)} KiB gzipped`)
}
