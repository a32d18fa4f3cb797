/** Reading an invoice: strictly, as it should have been written, and leniently, as scanners write it. */
import { z } from 'zod'

export const documentSchema = z.object({ id: z.string().min(1), text: z.string() })

export type ScannedDocument = z.infer<typeof documentSchema>

export interface Invoice {
	readonly number: string
	readonly currency: string
	/** In cents, so that sums come out even. */
	readonly totalCents: number
}

const FORM = /^Invoice (\d+)\nTotal (\d+)\.(\d{2}) ([A-Z]{3})$/

/** @throws if the text has another form than it should */
export function readInvoice(text: string): Invoice {
	const found = FORM.exec(text)
	if (found === null) throw new Error('the text does not have the form of an invoice')
	const [, number = '', units = '', cents = '', currency = ''] = found
	return { number, currency, totalCents: Number(units) * 100 + Number(cents) }
}

/** What scanners take for digits. */
const CONFUSED: Readonly<Record<string, string>> = { O: '0', o: '0', l: '1', I: '1', S: '5', B: '8' }

/** @throws if it is no invoice, however one looks at it */
export function repairInvoice(text: string): Invoice {
	const digits = (scanned: string): string =>
		scanned.replace(/[OolISB]/g, (letter) => CONFUSED[letter] ?? letter)
	const [first = '', second = ''] = text
		.split('\n')
		.map((line) => line.trim().replace(/\s+/g, ' '))
		.filter((line) => line !== '')
	const number = first.split(' ').at(-1) ?? ''
	const [, total = '', currency = ''] = second.split(' ')
	return readInvoice(`Invoice ${digits(number)}\nTotal ${digits(total).replace(',', '.')} ${currency}`)
}

/** Every so manieth sample came out of the scanner damaged. */
const DAMAGED_EVERY = 7

/** Invoices of a made-up month, some of them damaged. The same for the same count. */
export function sampleDocuments(count: number): ScannedDocument[] {
	return Array.from({ length: count }, (_, position) => {
		const number = String(10_000 + position)
		const total = `${(position * 37) % 900}.${String((position * 13) % 100).padStart(2, '0')}`
		const currency = ['EUR', 'USD', 'CHF'][position % 3] ?? 'EUR'
		const isDamaged = position % DAMAGED_EVERY === DAMAGED_EVERY - 1
		return {
			id: `scan-${position}`,
			text: isDamaged
				? `  lnvoice ${number.replaceAll('0', 'O').replaceAll('1', 'l')}\n\n Total  ${total.replace('.', ',').replaceAll('5', 'S')}  ${currency} `
				: `Invoice ${number}\nTotal ${total} ${currency}`,
		}
	})
}
