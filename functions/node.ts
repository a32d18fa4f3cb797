/** `npm run start:functions`: the functions as a Node server. */
import { hostname } from 'node:os'
import { runServerProcess } from './hosts/server-process.js'
import { serveFunctions } from './serve.js'

await runServerProcess({ command: 'npm run start:functions', hostname: hostname(), listen: serveFunctions })
