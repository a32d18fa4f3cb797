/** The client in a Cloudflare Worker: answers a request with what it has heard. */
import { useClient } from './program.js'

interface Bindings {
	readonly SERVER: string
	readonly KEY: string
}

export default {
	fetch: async (_request: Request, { SERVER, KEY }: Bindings): Promise<Response> =>
		Response.json(await useClient(SERVER, KEY)),
}
