/**
 * Functions whose source has changed since the last migration: what is tested is what stands in `src/db/sql`. Lets one
 * change a function, or remove a guard from it, and see what fails, without making a migration of it first.
 */
import type { Sql } from 'postgres'
import { changedSources } from '../../worker/db/sources.js'

export async function installChangedSources(sql: Sql): Promise<void> {
	for (const { text } of changedSources()) {
		for (const [, name] of text.matchAll(/^CREATE OR REPLACE FUNCTION (\w+)\(/gm)) {
			const [known] = await sql.unsafe<{ signature: string }[]>(
				`select oid::regprocedure::text as signature from pg_proc where proname = '${name}' and pronamespace = 'public'::regnamespace`,
			)
			if (known !== undefined) await sql.unsafe(`drop function ${known.signature} cascade`)
		}
		await sql.unsafe(text)
	}
}
