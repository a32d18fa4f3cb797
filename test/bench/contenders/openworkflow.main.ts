/** OpenWorkflow's worker, as its documentation starts one. */
import { OpenWorkflow } from 'openworkflow'
import { BackendPostgres } from 'openworkflow/postgres'
import { implementations } from './openworkflow-workflows.js'

const backend = await BackendPostgres.connect(process.env['DATABASE_URL'] ?? '')
const client = new OpenWorkflow({ backend })
for (const { spec, fn } of implementations) client.implementWorkflow(spec, fn)
const worker = client.newWorker({ concurrency: Number(process.env['CONCURRENCY']) })
await worker.start()
console.log('The worker runs')
process.on('SIGTERM', () => process.exit(0))
