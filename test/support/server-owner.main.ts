/** Starts one of each, says where, and leaves it to others to end it. */
import { spawnProcess } from './process.js'
import { freshFolder, startPostgres, startRedis } from './services/index.js'

const folder = freshFolder('owned')
const [redis, postgres] = await Promise.all([startRedis(), startPostgres()])
const sleeper = await spawnProcess({ entry: 'test/support/sleeper.main.ts', readyLine: 'sleeping' })
console.log(`owns ${JSON.stringify({ folder, pids: [redis.pid, postgres.pid, sleeper.pid] })}`)
