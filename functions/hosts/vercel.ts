/** The functions on Vercel, in its Node runtime: one function that answers every path. */
import { createFrozenHostApp } from './setup.js'

/** An instance answers several requests at once. */
const POOL_SIZE = 3

const app = createFrozenHostApp(process.env, POOL_SIZE)

export default { fetch: (request: Request): Response | Promise<Response> => app.fetch(request) }
