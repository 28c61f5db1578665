import { expect, it } from 'vitest';
import { renderReference } from '../../src/config/reference.ts';

it('docs/configuration.md is what the options table says', async () => {
  await expect(renderReference()).toMatchFileSnapshot('../../docs/configuration.md');
});
