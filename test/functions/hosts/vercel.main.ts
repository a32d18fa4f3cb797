/** What Vercel's launcher does with a module that exports `fetch`: a web request for each of Node's. Argument: the bundle. */
import { createAdaptorServer } from '@hono/node-server'
import type { AddressInfo } from 'node:net'
import { pathToFileURL } from 'node:url'

const { default: module } = await import(pathToFileURL(process.argv[2] ?? '').href)
const server = createAdaptorServer({ fetch: (request: Request) => module.fetch(request) })
server.listen(0, '127.0.0.1', () =>
	console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`),
)
