/** The client in Node, Deno or Bun. Arguments: the server's URL and a key. Prints what it has heard. */
import { useClient } from './program.js'

const [url = '', key = ''] = process.argv.slice(2)
console.log(`heard ${JSON.stringify(await useClient(url, key))}`)
