# A worker of the harness in Julia: the protocol of docs/process-backends.md, version 1.
#
#     include("protocol.jl")
#     Protocol.serve(Worker)
#
# `Worker` is a module with the functions below. Their arrays have the shapes of docs/backends.md.
#
#     greeting()                        framework, versions and source, as pairs of strings
#     choose(request)                   the model to train, given the fields of the request `model`
#     start(model, params)              a new training at these parameters, a Dict of arrays by name
#     train!(training, x_ETB, y_ETB)    the loss of each epoch
#     predict(training, x_TN)           the outputs
#     params(training)                  pairs of name and array

module Protocol

struct Unavailable <: Exception
    message::String
end

Base.showerror(io::IO, error::Unavailable) = print(io, error.message)

"""Throw `Unavailable` unless each field of the request `model` can be trained.

`allowed` has the values by name, or a colon for all. A later harness sends a field that is not named
only if it is not at its default.
"""
function require(request; allowed...)
    always = (device = ["cpu"], dtype = ["float32", "float64"], optimiser = ["adam", "sgd"],
              hidden = (:), learning_rate = (:))
    for (name, value) in request
        values = get(merge(always, allowed), Symbol(name), [])
        values === (:) || value in values || throw(Unavailable(
            "does not train a network with `$name` = $value" *
            (isempty(values) ? "." : "; it does with $(join(values, ", "))." )))
    end
end

"""Answer the requests on standard input until it ends."""
function serve(worker)
    model = training = nothing
    dtype = Float32
    while !eof(stdin)
        words = split(readline(stdin), '\t')
        request = words[1]
        fields = [Pair(String.(split(word, '='; limit = 2))...) for word in words[2:end]]
        try
            if request == "hello"
                answer("protocol" => "1", worker.greeting()...)
            elseif request == "model"
                model = training = nothing
                dtype = Dict("float32" => Float32, "float64" => Float64)[Dict(fields)["dtype"]]
                model = worker.choose(fields)
                answer()
            elseif request == "init"
                training = worker.start(model, receive(dtype, fields))
                answer()
            elseif request == "train"
                arrays = receive(dtype, fields)
                answer("losses" => worker.train!(training, arrays["x"], arrays["y"]))
            elseif request == "predict"
                answer("outputs" => worker.predict(training, receive(dtype, fields)["x"]))
            elseif request == "params"
                answer(worker.params(training)...)
            else
                error("there is no request `$request` in version 1 of the protocol")
            end
        catch exception
            expected = exception isa Unavailable
            expected || showerror(stderr, exception, catch_backtrace())
            message = join(split(sprint(showerror, exception), r"\s+"), " ")
            println(stdout, expected ? "unavailable" : "error", "\tmessage=", message)
            flush(stdout)
        end
    end
end

"""Read the arrays of a request, by name. Julia keeps the first index together, C the last."""
function receive(dtype, fields)
    arrays = Dict{String,AbstractArray{dtype}}()
    for (name, shape) in fields
        sizes = parse.(Int, split(shape, ','))
        values = read!(stdin, Array{dtype}(undef, reverse(sizes)...))
        arrays[name] = PermutedDimsArray(values, length(sizes):-1:1)
    end
    return arrays
end

"""Write an answer: the line, then the values of its arrays."""
function answer(fields...)
    words = [value isa AbstractArray ? "$name=$(join(size(value), ','))" : "$name=$value"
             for (name, value) in fields]
    println(stdout, join(["ok"; words], '\t'))
    for (_, value) in fields
        value isa AbstractArray && write(stdout, permutedims(value, ndims(value):-1:1))
    end
    flush(stdout)
end

end
