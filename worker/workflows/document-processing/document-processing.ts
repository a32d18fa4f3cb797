/**
 * A batch: reads a thousand scanned invoices, some of which are damaged, and adds them up.
 *
 *     list_documents ─► scatter ─► documents.read (one node for each document, 250 at a time) ─► gather ─► add_up
 *
 * The node that reads a document is a class. Its `exec` insists on the form that an invoice should have; where that
 * fails, `fallback` repairs what scanners do to digits, and says so, so that somebody can look at it.
 */
import {
	BaseNode,
	type NodeContext,
	type NodeRegistry,
	type NodeResult,
	type WorkflowBlueprint,
} from 'flowcraft'
import { z } from 'zod'
import { parseInput } from '../parse-input.js'
import { documentSchema, type Invoice, readInvoice, repairInvoice, sampleDocuments } from './invoice.js'

const MAX_DOCUMENTS = 10_000
const DEFAULT_DOCUMENTS = 1_000

const documentProcessing: WorkflowBlueprint = {
	id: 'document-processing',
	metadata: {
		version: '1.0.0',
		description: 'Reads a batch of scanned invoices, repairs damaged ones and adds them up.',
	},
	nodes: [
		{
			id: 'list_documents',
			uses: 'documents.list',
			inputs: { documents: 'documents', count: 'count' },
		},
		{
			id: 'scatter',
			uses: 'batch-scatter',
			inputs: 'list_documents',
			params: { workerUsesKey: 'documents.read', gatherNodeId: 'gather', chunkSize: 250 },
		},
		{ id: 'gather', uses: 'batch-gather', params: { gatherNodeId: 'gather', outputKey: 'invoices' } },
		{ id: 'add_up', uses: 'documents.add-up', inputs: 'invoices' },
	],
	edges: [
		{ source: 'list_documents', target: 'scatter' },
		{ source: 'scatter', target: 'gather' },
		{ source: 'gather', target: 'add_up' },
	],
}

interface ReadDocument extends Invoice {
	readonly documentId: string
	readonly repaired: boolean
}

class ReadInvoice extends BaseNode {
	override async exec(document: unknown): Promise<NodeResult<ReadDocument>> {
		const { id, text } = parseInput('document', documentSchema, document)
		return { output: { documentId: id, repaired: false, ...readInvoice(text) } }
	}

	override async fallback(_error: Error, { input }: NodeContext): Promise<NodeResult<ReadDocument>> {
		const { id, text } = parseInput('document', documentSchema, input)
		try {
			return { output: { documentId: id, repaired: true, ...repairInvoice(text) } }
		} catch (error) {
			throw new Error(`${id}: ${error instanceof Error ? error.message : String(error)}`, {
				cause: error,
			})
		}
	}
}

const readDocumentSchema = z.object({
	documentId: z.string(),
	repaired: z.boolean(),
	currency: z.string(),
	totalCents: z.number(),
})

const registry: NodeRegistry = {
	/** The documents of the input, or so many samples. */
	'documents.list': async ({ input }) => {
		const schema = z.object({
			documents: z.array(documentSchema).max(MAX_DOCUMENTS).nullish(),
			count: z.int().min(0).max(MAX_DOCUMENTS).nullish(),
		})
		const { documents, count } = parseInput('input', schema, input)
		return { output: documents ?? sampleDocuments(count ?? DEFAULT_DOCUMENTS) }
	},

	'documents.read': ReadInvoice,

	'documents.add-up': async ({ input }) => {
		const invoices = parseInput('invoices', z.array(readDocumentSchema), input)
		const totalCents: Record<string, number> = {}
		for (const { currency, totalCents: cents } of invoices)
			totalCents[currency] = (totalCents[currency] ?? 0) + cents
		const repaired = invoices.filter((invoice) => invoice.repaired)
		return {
			output: {
				documents: invoices.length,
				repaired: repaired.length,
				totalCents,
				toReview: repaired.map(({ documentId }) => documentId),
			},
		}
	},
}

export const documents = { blueprints: { [documentProcessing.id]: documentProcessing }, registry }
