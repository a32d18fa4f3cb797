import { codeOf } from './errors.js'

/** SQLSTATEs by which Postgres turns a connection away for good. */
const NO_SUCH_DATABASE = '3D000'
const NO_WAY_IN = /^28/

/**
 * One sentence on why Postgres turns every connection away, and what mends it: waiting does not. Undefined for every
 * other error.
 */
export function refusalOf(error: unknown): string | undefined {
	const code = codeOf(error)
	if (code === undefined) return undefined
	const says = error instanceof Error ? error.message : String(error)
	if (code === NO_SUCH_DATABASE)
		return `Postgres does not have the database that DATABASE_URL names (${says}): create it, for example with createdb, and run npm run db:migrate.`
	if (NO_WAY_IN.test(code))
		return `Postgres does not let in whom DATABASE_URL names (${says}): correct its user and password, or let it in.`
	return undefined
}
