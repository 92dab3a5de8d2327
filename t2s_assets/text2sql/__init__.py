"""From questions to SQL, as a library that knows no Dagster. Each package imports only those above it in this list.

    sql           SQL as text and as trees: parsed, named, brought to a normal form
    execution     running SQL that nobody has vouched for
    decoding      prompts to SQL that is valid by construction
    dialects      gold SQL of other dialects, as DuckDB SQL of the same meaning
    processes     ranks and other processes: started, told to stop, kept apart
    tables        a user's own tables and schemas, asked and answered
    datasets      readers of WikiSQL, of one's own data, of the bundled questions
    gold          what questions are answered with, and what that returned
    data_checks   what is wrong with prepared data
    evaluation    answers to an experiment's questions, and their scores
    training      an experiment's adapter
    comparison    experiments beside each other, and the one that serves
    reports       an experiment's report
    export        a tuned model as a folder for other programs

Beside them: `config` and `dataset_config` (what users write), `storage` (where all is kept), `query` and `schema` (what
is asked and answered), `prompts` and `base_models`; the steps between packages, `prepare` and `prompt_datasets`; a
tuned model's `adapters`, `merged`, `parity` and `trained`; and what is used most, `inference.Text2SQL`.
"""
