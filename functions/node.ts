/** `npm run start:functions`: the functions as a Node server. */
import { runServerProcess } from './hosts/server-process.js'
import { serveFunctions } from './serve.js'

await runServerProcess({ command: 'npm run start:functions', listen: serveFunctions })
